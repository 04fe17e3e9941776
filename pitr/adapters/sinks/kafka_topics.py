"""Topics that a restore publishes to: found, made, taken back, and read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pitr.adapters.kafka.config import KafkaConfig, translated
from pitr.domain.errors import Conflict, InvalidRequest, PitrError, Unavailable

BATCH_BYTES: Final = 512 * 1024
"""Half of what brokers take unless they are told otherwise."""

BATCH_OVERHEAD_BYTES: Final = 1024
FETCH_BYTES: Final = 16 * 1024 * 1024
READY_S: Final = 20.0
READY_LOOK_S: Final = 0.05
READ_S: Final = 30.0
"""How long to wait for the next record of a topic that says there are more."""

POLL_MS: Final = 1_000
POLL_RECORDS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic that exists. ``made`` is whether we made it."""

    name: str
    partitions: int
    batch_bytes: int
    compacted: bool
    made: bool

    def places(self) -> list[TopicPartition]:
        """List its partitions."""
        return [TopicPartition(self.name, number) for number in range(self.partitions)]


class Topics:
    """The cluster's topics."""

    def __init__(self, config: KafkaConfig, admin: AIOKafkaAdminClient) -> None:
        self._config = config
        self._admin = admin

    async def existing(self, names: Iterable[str]) -> dict[str, Topic]:
        """Return those of the topics that exist."""
        with translated():
            # To ask for topics by name would make them on brokers that do so.
            found = set(names) & set(await self._admin.list_topics())
        return await self._described(sorted(found), made=False)

    async def make(self, names: Sequence[str], *, partitions: int) -> dict[str, Topic]:
        """Make compacted topics: all of them, or none.

        Raises:
            InvalidRequest: The cluster refuses; it may have a policy.
            Conflict: Somebody else made one meanwhile.
        """
        if not names:
            return {}
        wanted = [_new_topic(name, partitions) for name in names]
        with translated():
            answer = await self._admin.create_topics(wanted)
        codes = {name: (code, message) for name, code, message in answer.topic_errors}
        made = [name for name, (code, _) in codes.items() if not code]
        try:
            for name, (code, message) in codes.items():
                if code:
                    _raise_refused(name, kafka.for_code(code), message)
            return await self._ready(names)
        except BaseException:
            await self.delete(made)
            raise

    async def _ready(self, names: Sequence[str]) -> dict[str, Topic]:
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    with translated():
                        described = await self._admin.describe_topics(list(names))
                    if all(map(_has_leaders, described)):
                        return await self._described(names, made=True)
                    await asyncio.sleep(READY_LOOK_S)
        except TimeoutError as error:
            raise Unavailable("a topic was made but nobody leads it") from error

    async def delete(self, names: Sequence[str]) -> bool:
        """Take back topics that were made; tell whether that was possible."""
        if not names:
            return True
        try:
            with translated():
                answer = await self._admin.delete_topics(list(names))
        except PitrError:
            return False
        return not any(code for _, code in answer.topic_error_codes)

    async def _described(self, names: Sequence[str], *, made: bool) -> dict[str, Topic]:
        if not names:
            return {}
        with translated():
            described = await self._admin.describe_topics(list(names))
        topics = {}
        for about in described:
            name = about["topic"]
            if about["error_code"]:
                with translated():
                    raise kafka.for_code(about["error_code"])(name)
            settings = await self._settings(name)
            taken = int(settings.get("max.message.bytes", 2 * BATCH_BYTES)) - BATCH_OVERHEAD_BYTES
            topics[name] = Topic(
                name=name,
                partitions=len(about["partitions"]),
                batch_bytes=max(1, min(BATCH_BYTES, taken)),
                compacted="compact" in settings.get("cleanup.policy", "compact"),
                made=made,
            )
        return topics

    async def _settings(self, name: str) -> dict[str, str]:
        """Return the topic's settings, as far as we may see them."""
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name)]
        try:
            with translated():
                answers = await self._admin.describe_configs(wanted)
        except PitrError:
            return {}
        entries = [entry for answer in answers for found in answer.resources for entry in found[4]]
        return {entry[0]: entry[1] for entry in entries if entry[1] is not None}

    async def any_record(self, topics: Iterable[Topic]) -> str | None:
        """Name a topic that holds a record which readers see; None if all are empty."""
        places = [place for topic in topics for place in topic.places()]
        async with aclosing(self.records(places)) as records:
            async for found in records:
                return str(next(iter(found)).topic)
        return None

    async def records(
        self, places: Sequence[TopicPartition]
    ) -> AsyncGenerator[Mapping[TopicPartition, Sequence[Any]], None]:
        """Yield the committed records that partitions hold now, in order.

        Raises:
            Unavailable: There are more, but they do not come.
        """
        if not places:
            return
        consumer = AIOKafkaConsumer(
            **self._config.client(),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES,
        )
        try:
            with translated():
                await consumer.start()
            reading = _Reading(consumer)
            with translated():
                await reading.begin(places)
            while reading.ends:
                with translated():
                    found = await reading.next()
                if found:
                    yield found
        finally:
            await consumer.stop()


class _Reading:
    """Partitions being read up to where they ended at the start."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._sure: set[TopicPartition] = set()
        self._stands: dict[TopicPartition, int] = {}
        self._moved_s = asyncio.get_running_loop().time()
        self.ends: dict[TopicPartition, int] = {}

    async def begin(self, places: Sequence[TopicPartition]) -> None:
        """Stand where each partition begins."""
        self._consumer.assign(list(places))
        first = await self._consumer.beginning_offsets(list(places))
        ends = await self._consumer.end_offsets(list(places))
        self.ends = {place: end for place, end in ends.items() if end > first[place]}
        if self.ends:
            self._consumer.assign(list(self.ends))
        for place in self.ends:
            self._consumer.seek(place, first[place])
            self._stands[place] = first[place]

    async def next(self) -> Mapping[TopicPartition, Sequence[Any]]:
        """Return what comes next, perhaps nothing."""
        found: Mapping[TopicPartition, Sequence[Any]] = await self._consumer.getmany(
            *self.ends, timeout_ms=POLL_MS, max_records=POLL_RECORDS_MAX
        )
        now_s = asyncio.get_running_loop().time()
        for place in list(self.ends):
            stands = await self._consumer.position(place)
            if stands != self._stands[place]:
                self._moved_s = now_s
            self._stands[place] = stands
            if stands >= self._end(place):
                del self.ends[place]
        if self.ends and now_s - self._moved_s > READ_S:
            raise Unavailable("the topic has more records, but they do not come")
        return found

    def _end(self, place: TopicPartition) -> int:
        """Correct the end by the first fetch: some brokers count only batches when asked."""
        stable, high = self._consumer.last_stable_offset(place), self._consumer.highwater(place)
        said = stable if stable is not None and stable >= 0 else high
        if said is not None and place not in self._sure:
            self._sure.add(place)
            self.ends[place] = max(self.ends[place], said)
        return self.ends[place]


@asynccontextmanager
async def topics_of(config: KafkaConfig) -> AsyncIterator[Topics]:
    """Connect to the cluster.

    Raises:
        Unavailable: No broker answers.
        InvalidRequest: It refuses the credentials.
    """
    admin = AIOKafkaAdminClient(**config.client())
    try:
        with translated():
            await admin.start()
        yield Topics(config, admin)
    finally:
        await admin.close()


def _new_topic(name: str, partitions: int) -> NewTopic:
    topic = NewTopic(name, partitions, 1, topic_configs={"cleanup.policy": "compact"})
    topic.replication_factor = -1  # the broker's default, which the constructor does not let pass
    return topic


def _has_leaders(about: Mapping[str, Any]) -> bool:
    partitions = about["partitions"]
    led = all(not one["error_code"] and one["leader"] >= 0 for one in partitions)
    return bool(led and partitions and not about["error_code"])


def _raise_refused(name: str, error: type[Exception], reason: str | None) -> None:
    if error is kafka.TopicAlreadyExistsError:
        raise Conflict("the topic was made by somebody else", hint="try again", topic=name)
    if getattr(error, "retriable", False):
        raise Unavailable("the topic cannot be made now", topic=name, reason=reason)
    raise InvalidRequest(
        "the cluster does not let us make the topic",
        hint="make it yourself, with cleanup.policy=compact",
        topic=name,
        reason=reason or error.__name__,
    )
