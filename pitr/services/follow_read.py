"""Reads the stream of a followed database: from messages to decoded parts, in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from pitr.domain.batch import Decoded
from pitr.domain.errors import Unavailable
from pitr.domain.limits import Limits
from pitr.domain.pgoutput.assembler import Assembler, Marker, Need
from pitr.domain.pgoutput.decode import decode_part
from pitr.domain.pgoutput.lost import SlotLost
from pitr.domain.pgoutput.messages import relation_of
from pitr.domain.pgoutput.model import Part, Relation, Transaction
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.ports import Database, Stream
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.schema_change import describes
from pitr.domain.pgoutput.schema_log import (
    SchemaStep,
    schema_steps,
    steps_of_relation,
)
from pitr.domain.pgoutput.sequence_log import SampledSequence, sampled
from pitr.domain.pgoutput.written import written_in

POLL_BYTES = 4 * 1024 * 1024
POLL_S = 0.1
FEW_MESSAGES = 256
FEW_PAUSE_S = 0.005
FEW_PAUSE_MAX_S = 0.05
"""How long more may come in after a poll that brought few messages: each look takes time, too. It
is the longer one where nothing is cut before that anyway."""

BEHIND_BYTES = 64 * 1024 * 1024
"""With more than so much to read, parts may wait longer to become larger."""

LOOK_EVERY_S = 60.0
LOOK_AGAIN_S = 1.0
SAMPLE_EVERY_S = 50.0
"""How often sequences are noted at most, should tables be altered all the time; less than the time
between two looks, which is never exactly the same."""

COPY = "copy"


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """A part, and the changes that it is."""

    part: Part
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Steps:
    """What became of tables at this place."""

    steps: Sequence[SchemaStep]
    commit_us: int | None


@dataclass(frozen=True, slots=True)
class Looked:
    """All tables of the source have been seen; ``sample`` is new of its sequences, if it is."""

    sample: Sample | None
    commit_us: int


@dataclass(frozen=True, slots=True)
class Undescribed:
    """From here on there are changes of a table as no document describes it."""

    collection: str
    commit_us: int | None


@dataclass(frozen=True, slots=True)
class ChunkEnd:
    """The place of a chunk."""

    content: bytes
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Idle:
    """Everything that was committed up to ``lsn`` came before this; somebody may wait for it."""

    lsn: int
    is_awaited: bool = False


Mark = Steps | Looked | Undescribed | ChunkEnd | Idle
Item = DecodedPart | Mark
Sample = tuple[SampledSequence, ...]


class StreamReader:
    """Two stages: ``read`` cuts the stream into parts, ``decode`` makes changes of them.

    ``decoded`` is what comes out, in the order of the stream. The queues between the stages hold
    one part each: a store that is slow stops the source's walsender in the end, and nothing grows.
    """

    def __init__(
        self,
        notes: Notes,
        stream: Stream,
        database: Database,
        *,
        schemas: Mapping[int, TableSchema],
        sample: Sample,
        limits: Limits,
    ) -> None:
        assert notes.lsn is not None, "it stands somewhere"
        self._stream = stream
        self._database = database
        self._schemas = dict(schemas)
        self._sample = sample
        self._sampled_s = -SAMPLE_EVERY_S
        self._limits = limits
        self._assembler = Assembler(
            lsn=notes.lsn,
            resumed=notes.open,
            rows_max=limits.capture_rows_max,
            bytes_max=limits.capture_bytes_max,
        )
        self._cut_s = 0.0
        self._server_lsn = 0
        self._looks: dict[bytes, asyncio.Future[_Seen | None]] = {}
        self._looks_due = asyncio.Event()
        self._undescribed = set(notes.copy.undescribed)
        self._doubtful: dict[int, Relation] = {}
        """What no document tells of, by relid. Of a partition no row may ever come."""
        self._parts: asyncio.Queue[Part | Mark] = asyncio.Queue(maxsize=1)
        self.decoded: asyncio.Queue[Item] = asyncio.Queue(maxsize=1)
        self._logger = structlog.get_logger("pitr.follow")

    async def read(self) -> None:
        """Read until cancelled.

        Raises:
            Unavailable: The source is away.
            SlotLost: It does not go on where the log stands.
        """
        while True:
            timeout_s = self._left_s() if self._assembler.holds_any else POLL_S
            polled = await self._stream.poll(
                bytes_max=POLL_BYTES, timeout_s=max(0.0, min(timeout_s, POLL_S))
            )
            self._server_lsn = polled.server_lsn
            for notice in polled.notices:
                self._logger.warning("source_says", notice=notice)
                if "publication" in notice:
                    raise SlotLost("the source passed over changes", notice=notice)
            await self._take(polled.messages)
            await self._cut_if_due()
            if polled.idle_lsn is not None and self._assembler.is_empty:
                self._assembler.pass_by(polled.idle_lsn)
                await self._parts.put(Idle(polled.idle_lsn))
            if 0 < len(polled.messages) < FEW_MESSAGES:
                left_s = self._left_s() if self._assembler.holds_any else 0.0
                await asyncio.sleep(min(max(left_s, FEW_PAUSE_S), FEW_PAUSE_MAX_S))

    async def decode(self) -> None:
        """Decode until cancelled."""
        while True:
            item = await self._parts.get()
            if isinstance(item, Part):
                decoded = await asyncio.to_thread(decode_part, item, position_first=0)
                # The messages are not needed any more, and the part waits to be stored.
                await self.decoded.put(DecodedPart(replace(item, messages=[]), decoded))
            else:
                await self.decoded.put(item)

    async def _take(self, messages: list[bytes]) -> None:
        assembler, taken = self._assembler, 0
        while True:
            need, taken = assembler.take(messages, taken)
            match need:
                case Need.MORE:
                    return
                case Need.CUT:
                    await self._cut()
                case Need.RELATION:
                    await self._relate()
                case Need.MARKER:
                    await self._cut()
                    for marker in assembler.markers:
                        await self._mark(marker)

    async def _cut(self, *, pieces: bool = False) -> None:
        for part in self._assembler.cut(pieces=pieces):
            if self._doubtful:
                for relid, commit_us in written_in(part, self._doubtful).items():
                    await self._put_undescribed(self._doubtful[relid].collection, commit_us)
            await self._parts.put(part)
        self._cut_s = time.monotonic()

    async def _cut_if_due(self) -> None:
        if self._assembler.holds_any and self._left_s() <= 0:
            await self._cut()

    def _left_s(self) -> float:
        """How long what is held may still wait for more.

        Where so much comes in that it makes a segment soon, it waits for that: changes that pass
        the tail cost several times as much.
        """
        limits, rows = self._limits, self._assembler.rows
        waited_s = time.monotonic() - self._cut_s
        busy_s = limits.capture_busy_linger_us / 1e6
        if self._server_lsn - self._assembler.lsn > BEHIND_BYTES:
            linger_us = limits.capture_behind_linger_us
        elif rows < limits.segment_rows_min <= rows * busy_s / max(waited_s, 1e-3):
            linger_us = limits.capture_busy_linger_us
        else:
            linger_us = limits.capture_linger_us
        return linger_us / 1e6 - waited_s

    async def _relate(self) -> None:
        """Take in what a table is from here on; see what became of it since it was last seen."""
        raw = relation_of(self._assembler.described)
        relation = await self._database.relation(raw)
        known = self._assembler.relation(raw.relid)
        if relation == known:
            return
        await self._cut(pieces=True)
        self._assembler.relate(relation)
        self._doubtful.pop(raw.relid, None)
        found = (await self._database.schemas([raw.relid])).get(raw.relid)
        before = self._schemas.get(raw.relid)
        under_way = self._assembler.transaction
        commit_us = under_way.commit_us if under_way is not None else None
        if found is None or await self._database.relation_of(found) != relation:
            # It is gone by now or something else; or a partition, which comes under its root.
            self._looks_due.set()
            if before is None or not describes(before, relation):
                self._doubtful[raw.relid] = relation
            return
        steps = steps_of_relation(self._schemas, before, found)
        if steps and steps[-1].empties and _goes_on(before, found):
            self._looks_due.set()  # rows went away that the relation message does not tell of
        elif relation.collection in self._undescribed:
            self._looks_due.set()
        else:
            await self._put_steps(steps, commit_us=commit_us)

    async def _put_undescribed(self, collection: str, commit_us: int | None) -> None:
        """Have a table emptied and read again when it is looked at: no document tells its rows."""
        self._looks_due.set()
        if collection not in self._undescribed:
            self._undescribed.add(collection)
            await self._parts.put(Undescribed(collection, commit_us))

    def look_soon(self) -> None:
        """Look at all tables again: one is not what it was."""
        self._looks_due.set()

    async def watch(self) -> None:
        """Look at all tables now and then, and when there is reason to, until cancelled.

        What became of a table that is written to is seen where its relation message comes. This
        is for the others, and for what that message does not tell.
        """
        session, number = await self._database.new_xid(), 0
        while True:
            self._looks_due.clear()
            number += 1
            name = f"{session}:{number}"  # nobody else's, ever
            sample = await self._sampled()
            # Known before it is asked for: the message may come back before the answer does.
            seen = self._looks[name.encode()] = asyncio.get_running_loop().create_future()
            try:
                tables = await self._database.look(name)
                seen.set_result(_Seen(tables, sample))
            except Unavailable as error:
                seen.set_result(None)
                self._looks.pop(name.encode(), None)
                self._logger.warning("tables_not_seen", error=str(error))
                self._looks_due.set()
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._looks_due.wait()

    async def _mark(self, marker: Marker) -> None:
        match marker.kind:
            case "copy":
                await self._parts.put(ChunkEnd(marker.content, marker.transaction))
            case "schema" if (seen := self._looks.pop(marker.content, None)) is not None:
                if (found := await seen) is not None:
                    undescribed, self._undescribed = self._undescribed, set()
                    steps = schema_steps(self._schemas, found.tables, undescribed=undescribed)
                    await self._put_steps(steps, commit_us=marker.transaction.commit_us)
                    self._doubtful = {
                        relid: relation
                        for relid, relation in self._doubtful.items()
                        if (schema := self._schemas.get(relid)) is None
                        or not describes(schema, relation)
                    }
                    await self._put_looked(found.sample, marker.transaction.commit_us)
            case "ddl":
                self._looks_due.set()
            case "awaited":
                await self._parts.put(Idle(self._assembler.lsn, is_awaited=True))

    async def _sampled(self) -> Sample | None:
        """Read what sequences stand at, if that was not done lately."""
        if time.monotonic() - self._sampled_s < SAMPLE_EVERY_S:
            return None
        try:
            sample = sampled(await self._database.sequences())
        except Unavailable as error:
            self._logger.warning("sequences_not_seen", error=str(error))
            return None
        self._sampled_s = time.monotonic()
        return sample

    async def _put_looked(self, sample: Sample | None, commit_us: int) -> None:
        """Say that all tables were seen; take in a sample if it is another."""
        is_new = sample is not None and sample != self._sample
        if sample is not None:
            self._sample = sample
        await self._parts.put(Looked(sample if is_new else None, commit_us))

    async def _put_steps(self, steps: Sequence[SchemaStep], *, commit_us: int | None) -> None:
        if not steps:
            return
        for step in steps:
            if step.after is None:
                assert step.before is not None, "a table that is gone was known"
                del self._schemas[step.before.relid]
            else:
                self._schemas[step.after.relid] = step.after
        await self._parts.put(Steps(steps, commit_us))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at the source has seen: tables by relid; what sequences stand at, or None."""

    tables: Mapping[int, TableSchema]
    sample: Sample | None


def _goes_on(before: TableSchema | None, after: TableSchema) -> bool:
    """Tell whether a table has the name and the key that it had."""
    return before is not None and (before.collection, before.row_key) == (
        after.collection,
        after.row_key,
    )
