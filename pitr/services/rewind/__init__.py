"""Rewinds and their undoing: plan, apply, record."""
