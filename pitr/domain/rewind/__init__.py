"""Rewinds: rows of a live database taken back to what they were, and no other row.

What differs comes from the log; the database is asked only whether its rows are what the log says
they are.
"""
