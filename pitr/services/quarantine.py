"""Lists, replays and dismisses input that could not be read (invariant 13)."""

from __future__ import annotations

import asyncio

from pitr.domain.batch import Batch
from pitr.domain.catalog import Catalog
from pitr.domain.change import Quarantined
from pitr.domain.errors import InvalidRequest, NotFound
from pitr.domain.formats import Format, decode_one
from pitr.domain.log import Appended, QuarantineItem
from pitr.domain.pulled import collection_of
from pitr.services.append import Appender

LANE = "quarantine"
"""The lane of changes that were made from quarantined input."""


class Quarantine:
    """What waits for a fix, and the way back into the log."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def item(self, log: str, quarantine_id: int) -> QuarantineItem:
        """Return one input.

        Raises:
            NotFound: There is none with that id.
        """
        found = await self._catalog.quarantine(log, status=None, id_first=quarantine_id, limit=1)
        if not found or found[0].quarantine_id != quarantine_id:
            raise NotFound(
                "no such input is in quarantine",
                hint="pitr quarantine lists them",
                quarantine_id=quarantine_id,
            )
        return found[0]

    async def replay(
        self,
        log: str,
        quarantine_id: int,
        *,
        appender: Appender,
        body: bytes | None = None,
        format: Format = "auto",
        key_columns: tuple[str, ...] | None = None,
    ) -> Appended:
        """Read an input again, or ``body`` in its place, and append its changes; once.

        Raises:
            InvalidRequest: It still cannot be read; it stays where it is.
            Conflict: It is resolved already.
        """
        item = await self.item(log, quarantine_id)
        decoded = await asyncio.to_thread(
            decode_one,
            item.body if body is None else body,
            format=format,
            position=0,
            key_columns=key_columns,
            collection=collection_of(item.lane),
        )
        if decoded.quarantined:
            raise _still_unreadable(decoded.quarantined[0], quarantine_id)
        batch = Batch(
            lane=LANE,
            position_first=None,
            position_end=1,
            changes=decoded.changes,
            resolves=quarantine_id,
        )
        return await appender.append(batch)


def _still_unreadable(found: Quarantined, quarantine_id: int) -> InvalidRequest:
    return InvalidRequest(
        "the input still cannot be read",
        hint=found.reason,
        reason=found.code,
        quarantine_id=quarantine_id,
    )
