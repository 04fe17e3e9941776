"""Rows of a PostgreSQL database taken back, in one transaction."""
