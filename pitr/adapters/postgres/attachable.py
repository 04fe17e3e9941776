"""A database that is to be attached or detached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pitr.adapters.postgres.detach import detach
from pitr.adapters.postgres.setup import apply, attach_plan
from pitr.adapters.postgres.source import SourceDatabase, opened
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.attach import AttachNames, AttachOptions, AttachPlan
from pitr.domain.pgoutput.attach_results import Detached, Done
from pitr.domain.pgoutput.selection import Selection

_WHICH: Final = """
SELECT current_database()::text AS name,
    to_regclass('pitr.logs') IS NOT NULL AND to_regclass('pitr.lanes') IS NOT NULL AS is_catalog
"""


class AttachableDatabase:
    """A database that answers, as ``services.attach`` and ``services.detach`` need it."""

    def __init__(self, source: SourceDatabase) -> None:
        self._source = source

    async def name(self) -> str:
        """Return what the database is called.

        Raises:
            InvalidRequest: It is a catalog of pitr's: what is captured would be a change in it.
        """
        async with self._source.pool.connection() as connection:
            row = await connection.fetchrow(_WHICH)
        if row["is_catalog"]:
            raise InvalidRequest(
                "this database is a catalog of pitr's, which cannot be captured",
                hint="attach the app's database; PITR_CATALOG_URL names another one than that",
                database=row["name"],
            )
        name: str = row["name"]
        return name

    async def plan(
        self, names: AttachNames, *, selection: Selection, options: AttachOptions
    ) -> AttachPlan:
        """Plan what attaching makes; nothing is changed."""
        return await attach_plan(self._source, names, selection=selection, options=options)

    async def apply(self, plan: AttachPlan) -> tuple[Done, ...]:
        """Make what is missing, in order."""
        return await apply(self._source, plan)

    async def detach(self, names: AttachNames, *, terminate: bool) -> Detached:
        """Take away what attaching made; with ``terminate`` end pitr's own stream first."""
        return await detach(self._source, names, terminate=terminate)


@asynccontextmanager
async def attachable(url: str) -> AsyncIterator[AttachableDatabase]:
    """Connect, and let go at the end."""
    async with opened(url) as source:
        yield AttachableDatabase(source)
