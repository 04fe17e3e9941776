"""Databases that are attached to logs."""

from __future__ import annotations

from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import locked_log
from pitr.domain.errors import Conflict
from pitr.domain.log import Source

_COLUMNS = "name, url, slot, publication, created_us, options"
_OF_LOG = "log_id = (SELECT log_id FROM pitr.logs WHERE name = $1)"


class Sources(Connected):
    """The part of the catalog that knows which databases are attached."""

    _SOURCES = f"SELECT {_COLUMNS} FROM pitr.sources WHERE {_OF_LOG} ORDER BY name"

    async def sources(self, log: str) -> list[Source]:
        """Return the databases that are attached to a log, by name."""
        async with self._connection() as connection:
            found = await connection.fetch(self._SOURCES, log)
        return [Source(**dict(row)) for row in found]

    _ADD = f"""
    INSERT INTO pitr.sources (log_id, {_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING RETURNING name
    """

    async def add_source(self, log: str, source: Source) -> None:
        """Attach a database to a log.

        Raises:
            Conflict: Another is attached under that name.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            values = (source.name, source.url, source.slot, source.publication, source.created_us)
            options = dict(source.options)
            if await connection.fetchval(self._ADD, state.log_id, *values, options) is None:
                raise Conflict(
                    "a database is attached under that name already",
                    hint=f"give another --name, or pitr detach {source.name}",
                    source=source.name,
                )

    _CHANGE = f"""
    UPDATE pitr.sources
    SET url = $3, slot = $4, publication = $5, created_us = $6, options = $7
    WHERE {_OF_LOG} AND name = $2
    """

    async def change_source(self, log: str, source: Source) -> bool:
        """Put this in place of the database that is attached under its name.

        Returns:
            Whether there is one.
        """
        values = (source.name, source.url, source.slot, source.publication, source.created_us)
        async with self._connection() as connection:
            changed: str = await connection.execute(
                self._CHANGE, log, *values, dict(source.options)
            )
        return changed != "UPDATE 0"

    _REMOVE = f"DELETE FROM pitr.sources WHERE {_OF_LOG} AND name = $2"

    async def remove_source(self, log: str, name: str) -> bool:
        """Detach a database from a log; what was captured stays. False if there is none."""
        async with self._connection() as connection:
            removed: str = await connection.execute(self._REMOVE, log, name)
        return removed != "DELETE 0"
