"""A PostgreSQL database as a sink: the whole state in one transaction, or nothing of it."""

from pitr.adapters.sinks.postgres.sink import PostgresSink

__all__ = ["PostgresSink"]
