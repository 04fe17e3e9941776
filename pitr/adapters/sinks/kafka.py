"""Restoring into Kafka: every row a record, all of them in one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from pitr.adapters.kafka.config import KafkaConfig
from pitr.adapters.sinks.batches import ahead, slices
from pitr.adapters.sinks.kafka_keys import HeldKeys, key_head
from pitr.adapters.sinks.kafka_place import KafkaPlace
from pitr.adapters.sinks.kafka_publisher import Batch, Publisher, publisher_to
from pitr.adapters.sinks.kafka_topics import BATCH_BYTES, Topic, Topics, topics_of
from pitr.domain.errors import InvalidRequest, PitrError, SinkNotEmpty
from pitr.domain.outlook import Outline, Outlook, TableOutlook
from pitr.domain.ports import Progress, RestorableState, SinkReport

OPEN_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of batches that are being filled, one for each partition."""

BATCH_BYTES_MIN: Final = 16 * 1024

_partition_of = DefaultPartitioner()


class KafkaSink:
    """Topics that get a record for each row, in one transaction unless ``place`` says otherwise.

    ``force`` publishes to topics that hold records. ``docs/restore-kafka.md`` says the rest.
    """

    def __init__(self, config: KafkaConfig, place: KafkaPlace, *, force: bool = False) -> None:
        if place.tombstones and not force:
            raise InvalidRequest(
                "tombstones are for a topic that holds records", hint="give --force as well"
            )
        self._config = config
        self._place = place
        self._force = force

    async def look(self, outline: Outline) -> Outlook:
        """Say to which topics rows would go; see ``Sink.look``."""
        names = {name: self._place.topic_of(name) for name in sorted(outline.counts)}
        wanted = sorted(set(names.values()) or ({self._place.topic} if self._place.shared else ()))
        async with topics_of(self._config) as topics:
            found = await topics.existing(wanted)
            filled = [name for name, topic in found.items() if await topics.any_record([topic])]
        problems = [
            f"the topic {name} holds records already; --force adds to it" for name in filled
        ]
        tables = [
            TableOutlook(
                collection=collection,
                where=topic,
                action="make" if topic not in found else "write" if topic in filled else "fill",
                rows=outline.counts[collection],
                notes=tuple(self._topic_notes(topic, found.get(topic))),
            )
            for collection, topic in names.items()
        ]
        return Outlook(
            where=self._shown(),
            identity={
                "brokers": self._config.bootstrap,
                "topic": self._place.topic,
                "tombstones": self._place.tombstones,
                "transaction": self._place.transaction,
            },
            tables=tuple(tables),
            problems=() if self._force else tuple(problems),
        )

    def _topic_notes(self, name: str, topic: Topic | None) -> Iterator[str]:
        if topic is None:
            yield f"{name} is made, compacted, partitions: {self._place.partitions}"
        elif not topic.compacted:
            yield f"{name} is not compacted, so retention will remove rows"
        if self._place.tombstones:
            yield f"{name} gets tombstones for rows that the state does not have"

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Publish the state.

        Raises:
            SinkNotEmpty: A topic holds records and ``force`` was not given.
            InvalidRequest: The broker refuses: rights, transactions, names, sizes.
            Conflict: Another restore into the topic began meanwhile.
            Unavailable: The broker does not answer.
        """
        names = {collection: self._place.topic_of(collection) for collection in state.counts}
        wanted = sorted(set(names.values()) or ({self._place.topic} if self._place.shared else ()))
        async with topics_of(self._config) as topics:
            found = await topics.existing(wanted)
            await self._check_empty(topics, found)
            batch_bytes = _batch_bytes(found, self._place, missing=len(wanted) - len(found))
            async with publisher_to(
                self._config, self._place, batch_bytes=batch_bytes
            ) as publisher:
                # Again: only now is a restore that was under way either undone or complete.
                await self._check_empty(topics, found)
                missing = [name for name in wanted if name not in found]
                made = await topics.make(missing, partitions=self._place.partitions)
                run = _Run(
                    state=state,
                    progress=progress,
                    publisher=publisher,
                    topics={c: (found | made)[name] for c, name in names.items()},
                    shared=self._place.shared,
                )
                try:
                    await self._publish(run, topics, found)
                except BaseException as error:
                    await _undo(error, publisher, topics, made)
                    raise
        return SinkReport(
            rows=run.rows, where=self._shown(), notes=tuple(self._notes(run, found, made))
        )

    async def _publish(self, run: _Run, topics: Topics, found: Mapping[str, Topic]) -> None:
        with closing(HeldKeys(shared=run.shared)) as held:
            if self._place.tombstones:
                run.held = held
                places = [place for topic in found.values() for place in topic.places()]
                async with aclosing(topics.records(places)) as reading:
                    async for records in reading:
                        await asyncio.to_thread(held.add, records)
            await run.publisher.begin()
            async with aclosing(ahead(run.batches())) as coming:
                async for batch in coming:
                    run.count(await run.publisher.send(batch))
            run.count(await run.publisher.flush())
            run.strange = held.strange
            await run.publisher.commit()

    async def _check_empty(self, topics: Topics, found: Mapping[str, Topic]) -> None:
        filled = None if self._force else await topics.any_record(found.values())
        if filled is not None:
            raise SinkNotEmpty(
                "the topic holds records already",
                hint="name a new topic, or publish to it all the same with --force",
                topic=filled,
            )

    def _shown(self) -> str:
        return f"kafka://{self._config.bootstrap}/{self._place.topic}"

    def _notes(
        self, run: _Run, found: Mapping[str, Topic], made: Mapping[str, Topic]
    ) -> Iterator[str]:
        for name, topic in made.items():
            yield f"{name}: made, compacted, partitions: {topic.partitions}"
        for name, topic in found.items():
            if not topic.compacted:
                yield f"{name}: the topic is not compacted, so retention will remove rows"
            if self._place.tombstones:
                yield f"{name}: tombstones for rows that the state does not have: " + str(
                    run.tombstones[name]
                )
            if run.strange[name]:
                yield f"{name}: records with keys of another form, left alone: {run.strange[name]}"
        if not self._place.transaction:
            yield "published without a transaction: readers saw rows before all were there"


@dataclass(kw_only=True)
class _Run:
    """One restore under way."""

    state: RestorableState
    progress: Progress
    publisher: Publisher
    topics: Mapping[str, Topic]
    shared: bool
    held: HeldKeys | None = None
    rows: dict[str, int] = field(default_factory=dict)
    tombstones: Counter[str] = field(default_factory=Counter)
    strange: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rows = dict.fromkeys(sorted(self.state.counts), 0)

    def count(self, taken: list[Batch]) -> None:
        """Count what the broker took."""
        for batch in taken:
            if batch.collection is None:
                self.tombstones[batch.place.topic] += batch.rows
            else:
                self.rows[batch.collection] += batch.rows
                self.progress(batch.rows)

    def batches(self) -> Iterator[Batch]:
        """Yield all there is to publish; blocking."""
        for collection in self.rows:
            yield from self._rows_of(collection, self.topics[collection])
        if self.held is not None:
            for place, left in groupby(self.held.left(), key=itemgetter(0)):
                filling = _Filling(self.publisher, None)
                for _, key in left:
                    if (full := filling.add(place, key, None)) is not None:
                        yield full
                yield from filling.rest()

    def _rows_of(self, collection: str, topic: Topic) -> Iterator[Batch]:
        places, numbers = topic.places(), list(range(topic.partitions))
        filling = _Filling(self.publisher, collection)
        for part in slices(self.state.rows(collection, documents_only=True)):
            keys, values = _records(part, collection, shared=self.shared)
            if len(places) == 1:
                chosen = places * len(keys)
            else:
                chosen = [places[_partition_of(key, numbers, numbers)] for key in keys]
            if self.held is not None:
                self.held.discard(zip(chosen, keys, strict=True))
            for place, key, value in zip(chosen, keys, values, strict=True):
                if (full := filling.add(place, key, value)) is not None:
                    yield full
        yield from filling.rest()


class _Filling:
    """Batches being filled, one for each partition."""

    def __init__(self, publisher: Publisher, collection: str | None) -> None:
        self._publisher = publisher
        self._collection = collection
        self._open: dict[TopicPartition, Batch] = {}

    def add(self, place: TopicPartition, key: bytes, value: bytes | None) -> Batch | None:
        """Put a record in; return the partition's batch if it was full before."""
        full = self._open.get(place)
        if full is not None and full.add(key, value):
            return None
        batch = self._publisher.new_batch(place, collection=self._collection, first=key)
        batch.add(key, value)
        self._open[place] = batch
        return full

    def rest(self) -> Iterable[Batch]:
        """Return what is not full."""
        return self._open.values()


def _records(
    part: pa.RecordBatch, collection: str, *, shared: bool
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of rows; the document's bytes are spliced in, not encoded again."""
    head, key = key_head(collection), part.column("key")
    tail = [',"op":"read","after":', part.column("after"), "}"]
    values = pc.binary_join_element_wise(head, key, *tail, "")
    keys = pc.binary_join_element_wise(head, key, "}", "") if shared else key
    return keys.cast(pa.binary()).to_pylist(), values.cast(pa.binary()).to_pylist()


def _batch_bytes(found: Mapping[str, Topic], place: KafkaPlace, *, missing: int) -> int:
    """Choose the size of batches: what brokers take, and what memory takes for all partitions."""
    partitions = [topic.partitions for topic in found.values()]
    most = max([*partitions, *([place.partitions] if missing else [])], default=1)
    fitting = min(BATCH_BYTES, max(BATCH_BYTES_MIN, OPEN_BYTES_MAX // most))
    return min([fitting, *(topic.batch_bytes for topic in found.values())])


async def _undo(
    error: BaseException, publisher: Publisher, topics: Topics, made: Mapping[str, Topic]
) -> None:
    """Abort, and take back the topics that were made, as far as they are ours alone."""
    if publisher.committing:
        return
    await publisher.abort()
    gone = not publisher.fenced and await topics.delete(list(made))
    in_made_only = publisher.topics_sent <= made.keys()
    left = publisher.sent if publisher.seen_at_once and not (gone and in_made_only) else 0
    if left and isinstance(error, PitrError):
        error.facts["records_left"] = left
        error.args = (f"{error} records_left={left}",)
