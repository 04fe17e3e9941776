"""Restoring beside live tables that new ones then replace, all in one short transaction."""

from pitr.adapters.sinks.postgres.swap.old import OldTables, drop_old, list_old
from pitr.adapters.sinks.postgres.swap.sink import PostgresSwap

__all__ = ["OldTables", "PostgresSwap", "drop_old", "list_old"]
