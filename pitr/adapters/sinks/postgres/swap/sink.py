"""Restoring beside the live tables: fill new ones at leisure, then exchange them in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import connected, pin_settings, shown, translated
from pitr.adapters.sinks.postgres.exclusive import others_excluded
from pitr.adapters.sinks.postgres.loading import Loader
from pitr.adapters.sinks.postgres.looking import Looking
from pitr.adapters.sinks.postgres.swap.names import (
    OLD_PREFIX,
    checked_id,
    schema_names,
)
from pitr.adapters.sinks.postgres.swap.old import drop_unfinished
from pitr.adapters.sinks.postgres.swap.stage import step
from pitr.adapters.sinks.postgres.swap.survey import survey
from pitr.adapters.sinks.postgres.swap.work import STEP_LOCK_TIMEOUT_S, Swap, places
from pitr.adapters.sinks.postgres.tables import (
    JsonStrings,
    table_names,
)
from pitr.domain.errors import PitrError
from pitr.domain.outlook import Outline, Outlook, TableOutlook
from pitr.domain.ports import Progress, RestorableState, SinkReport

LOCK_TIMEOUT_S: Final = 0.8
"""How long the exchange waits for locks; whoever comes meanwhile waits behind it.

Less than PostgreSQL's usual ``deadlock_timeout``, so that in a deadlock with the app it is the swap
that gives way.
"""

LOCK_ATTEMPTS: Final = 20
"""How often it tries."""


class PostgresSwap:
    """A database in which new tables take the place of live ones; those are kept.

    ``swap_id`` names what is left: the schema ``pitr_old_<swap_id>``. ``drop_unknown``, ``names``
    and ``json_strings`` are as in ``PostgresSink``. See ``docs/restore-postgres.md``, "Swap".
    """

    def __init__(
        self,
        url: str,
        *,
        swap_id: str,
        drop_unknown: bool = False,
        names: Mapping[str, str] | None = None,
        json_strings: JsonStrings = "auto",
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        lock_attempts: int = LOCK_ATTEMPTS,
        temporary_folder: Path | None = None,
    ) -> None:
        self._url = url
        self._swap_id = checked_id(swap_id)
        self._drop_unknown = drop_unknown
        self._names = names or {}
        self._json_strings = json_strings
        self._lock_timeout_s = lock_timeout_s
        self._lock_attempts = lock_attempts
        self._temporary_folder = temporary_folder

    async def look(self, outline: Outline) -> Outlook:
        """Say what a swap to such a state would find and do; changes nothing.

        Raises:
            InvalidRequest: The database refuses the user.
            Unavailable: The database did not answer.
        """
        async with connected(self._url) as connection:
            with translated():
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
                    looking = Looking(
                        connection=connection,
                        outline=outline,
                        given_names=self._names,
                        force=True,
                        drop_unknown=self._drop_unknown,
                    )
                    found = await looking.outlook(shown(self._url))
                    live, depending, problems = await survey(connection, looking.tables.values())
        schemas = sorted(set(schema_names(OLD_PREFIX, self._swap_id, places(live)).values()))
        notes = [f"the tables that are there now are kept in {', '.join(schemas)}"] if live else []
        return replace(
            found,
            tables=tuple(_swapped(each) for each in found.tables),
            problems=(*found.problems, *problems),
            notes=(*found.notes, *notes, *(f"{each.what} is said anew" for each in depending.said)),
        )

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Fill new tables beside the live ones, and exchange them in one transaction.

        Raises:
            InvalidRequest: A document does not fit its table, or a table cannot be swapped; facts
                name what is in the way.
            Conflict: Rows refer to rows that are not there, a table was altered meanwhile, or
                another restore runs there.
            Unavailable: The database did not answer, or the tables could not be locked.
        """
        names = table_names(state.counts, self._names, state.schemas)
        async with connected(self._url) as connection:
            with translated():
                async with others_excluded(connection):
                    loader = Loader(
                        connection=connection,
                        progress=progress,
                        drop_unknown=self._drop_unknown,
                        temporary_folder=self._temporary_folder,
                    )
                    swap = Swap(
                        connection=connection,
                        url=self._url,
                        loader=loader,
                        state=state,
                        names=names,
                        swap_id=self._swap_id,
                        lock_timeout_s=self._lock_timeout_s,
                    )
                    await self._run(swap)
        return SinkReport(rows=swap.rows, where=shown(self._url), notes=tuple(swap.notes))

    async def _run(self, swap: Swap) -> None:
        async with step(swap.connection, lock_timeout_s=STEP_LOCK_TIMEOUT_S):
            await drop_unfinished(swap.connection)
            await swap.begin(json_strings=self._json_strings)
        try:
            await swap.fill()
            await swap.exchange(attempts=self._lock_attempts)
        except BaseException:
            await _clean(swap.connection)
            raise


def _swapped(outlook: TableOutlook) -> TableOutlook:
    is_there = outlook.action in ("fill", "replace")
    return replace(outlook, action="swap") if is_there else outlook


async def _clean(connection: asyncpg.Connection) -> None:
    """Drop the new tables, if the database still answers; the next swap does it otherwise."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, PitrError):
        await drop_unfinished(connection)
