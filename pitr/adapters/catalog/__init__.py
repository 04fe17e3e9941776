"""The catalog in PostgreSQL: all of pitr's SQL, by asyncpg."""

from __future__ import annotations

from pathlib import Path

from pitr.adapters.catalog.append import Appends
from pitr.adapters.catalog.connection import open_pool
from pitr.adapters.catalog.lanes import Lanes
from pitr.adapters.catalog.leases import Leases
from pitr.adapters.catalog.migrate import migrate
from pitr.adapters.catalog.reading import Reading
from pitr.adapters.catalog.records import Records
from pitr.adapters.catalog.sealing import Sealing
from pitr.adapters.catalog.sources import Sources

__all__ = ["PostgresCatalog"]


class PostgresCatalog(Appends, Lanes, Sources, Sealing, Leases, Reading, Records):
    """The catalog port on a PostgreSQL database, 14 or later."""

    @classmethod
    async def open(cls, url: str, *, migrations: Path) -> PostgresCatalog:
        """Connect and bring the schema up to date.

        Raises:
            Unavailable: The database does not answer.
            Conflict: The schema is newer than this pitr, or a migration was altered.
        """
        pool = await open_pool(url)
        await migrate(pool, migrations)
        return cls(pool)
