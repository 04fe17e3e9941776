"""Reads tables that are to be copied, a chunk at a time, beside the stream.

``domain.pgoutput.copying`` explains the method. A chunk is handed over when its place comes by in
the stream; the store decides on its rows, and says when the next may be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson
import structlog

from pitr.domain.batch import Decoded
from pitr.domain.errors import Conflict, NotFound, Unavailable
from pitr.domain.pgoutput.copying import CHUNK_ROWS_MAX, CHUNK_ROWS_MIN, Chunk, Resume
from pitr.domain.pgoutput.copytext import decode_rows
from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.ports import Database
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.window import Window
from pitr.services.follow_read import COPY
from pitr.services.follow_state import Following

AGAIN_S = (0.05, 0.2, 0.5, 1.0)
FIRST_ROWS = 5_000
LOCK_NOT_AVAILABLE = "55P03"


@dataclass(frozen=True, slots=True)
class InHand:
    """A chunk that waits for its place in the stream."""

    name: str
    chunk: Chunk
    decoded: Decoded
    schema: TableSchema
    after: Resume | None


class TableCopier:
    """Copies what the lane's notes say is to be copied. Its window is told by the store.

    ``look`` asks for a look at all tables soon: one is not what it was.
    """

    def __init__(
        self,
        following: Following,
        database: Database,
        *,
        schemas: Iterable[TableSchema],
        look: Callable[[], None],
    ) -> None:
        self._following = following
        self._database = database
        self._look = look
        self.window = Window(watched=frozenset())
        self.schemas = {schema.collection: schema for schema in schemas}
        """The tables by collection, as of what is stored."""
        self._in_hand: InHand | None = None
        self._session = self._number = 0
        self._wanted = asyncio.Event()
        self._decided = asyncio.Event()
        self._accepted = False
        self._logger = structlog.get_logger("pitr.follow").bind(lane=following.lane)

    def wake(self) -> None:
        """Say that there may be more to copy."""
        self._wanted.set()

    async def run(self) -> None:
        """Copy until cancelled."""
        while True:
            self._wanted.clear()
            to_do = self._following.notes.copy.to_do
            await self._watch(to_do)
            can_be = self._following.notes.copy.ready
            ready = next((name for name in can_be if name in self.schemas), None)
            if ready is None:
                await self._wanted.wait()
            else:
                await self._copy(ready)

    async def _watch(self, to_do: Sequence[str]) -> None:
        """Keep what the stream brings of these from now on; older transactions are waited for."""
        new = [collection for collection in to_do if collection not in self.window.watched]
        if new:
            self._session = await self._database.new_xid()  # nobody else's, ever
            for collection in new:
                self.window.watch(collection, since=self._session)
            await self._estimate(new)

    async def _estimate(self, collections: Sequence[str]) -> None:
        """Find out about how many rows there are to read; it is stored with the next of them."""
        copy = self._following.notes.copy
        relids = {
            self.schemas[collection].relid: collection
            for collection in collections
            if collection in self.schemas
            and (table := copy.table(collection)) is not None
            and table.estimate is None
        }
        if relids:
            found = await self._database.estimated_rows(list(relids))
            named = {relids[relid]: rows for relid, rows in found.items()}
            self._following.estimates = {**self._following.estimates, **named}

    async def _copy(self, collection: str) -> None:
        """Copy one table, as long as it is to be copied and stays what it is."""
        schema = self.schemas[collection]
        relation = await self._database.relation_of(schema)
        self._logger.info("table_is_read", collection=collection)
        rows_max, refused = FIRST_ROWS, 0
        while (
            collection in self._following.notes.copy.ready
            and self.schemas.get(collection) is schema
        ):
            table = self._following.notes.copy.table(collection)
            after = table.last if table is not None else None
            chunk = await self._chunk(relation, after, rows_max)
            if chunk is not None and await self._offer(chunk, relation, schema, after):
                rows_max, refused = chunk.rows_max, 0
                continue
            rows_max = max(rows_max // 2, CHUNK_ROWS_MIN)
            await asyncio.sleep(AGAIN_S[min(refused, len(AGAIN_S) - 1)])
            refused += 1
        self.window.unwatch(collection)

    async def _chunk(self, relation: Relation, after: Resume | None, rows_max: int) -> Chunk | None:
        """Read the next chunk; None if the stream may have brought what it does not see."""
        if self.window.unknown(await self._database.snapshot()):
            return None  # a transaction is older than all we know: no need to read in vain
        try:
            chunk = await self._database.chunk(
                relation, after=after, rows_max=min(rows_max, CHUNK_ROWS_MAX)
            )
        except (Conflict, NotFound) as error:
            # The stream has not brought what became of it, or nobody has seen it yet.
            self._logger.info("table_is_another", collection=relation.collection, why=str(error))
            self._look()
            return None
        except Unavailable as error:
            if error.facts.get("sqlstate") != LOCK_NOT_AVAILABLE:
                raise
            self._logger.info("table_is_locked", collection=relation.collection)
            return None
        self.window.took(chunk.snapshot)
        if self.window.unknown(chunk.snapshot):
            self.window.give_up()
            return None
        return chunk

    async def _offer(
        self, chunk: Chunk, relation: Relation, schema: TableSchema, after: Resume | None
    ) -> bool:
        """Mark the chunk's place in the stream, and wait until it came by there."""
        decoded = await asyncio.to_thread(decode_rows, chunk.data, relation)
        self._number += 1
        name = f"{self._session}:{self._number}"
        self._in_hand = InHand(name, chunk, decoded, schema, after)
        self._decided.clear()
        await self._database.emit(COPY, orjson.dumps({"chunk": name}))
        await self._decided.wait()
        return self._accepted

    def at_place(self, content: bytes) -> InHand | None:
        """Return the chunk whose place this is; None for one that was given up."""
        in_hand = self._in_hand
        if in_hand is not None and content == orjson.dumps({"chunk": in_hand.name}):
            return in_hand
        return None

    def is_next(self, in_hand: InHand) -> bool:
        """Tell whether a chunk is what the copy of its table goes on with, here in the stream.

        Not if the table was altered since it was read, or is to be read from its beginning again.
        """
        collection = in_hand.chunk.collection
        table = self._following.notes.copy.table(collection)
        return (
            table is not None
            and not (table.done or table.undescribed)
            and table.last == in_hand.after
            and self.schemas.get(collection) is in_hand.schema
        )

    def decide(self, *, accepted: bool) -> None:
        """Say whether the chunk in hand is stored, or has to be read again."""
        self._in_hand, self._accepted = None, accepted
        self._decided.set()
