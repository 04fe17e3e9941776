"""Looks at topics beside the consumer group: where they begin and end, what is at an offset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pitr.adapters.kafka import clients
from pitr.adapters.kafka.config import KafkaConfig, translated
from pitr.domain.errors import PitrError

PEEK_S = 5.0
FETCH_MS = 200
END_FETCH_MS = 1_000


class Peeker:
    """Asks by clients of its own: on the group's, questions queue behind waiting fetches."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._turn = asyncio.Lock()
        self._kept_us: dict[str, int | None] = {}
        self._unknown: dict[str, str] = {}
        self._logger = structlog.get_logger("pitr.kafka")

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Return the first offset that is left of each partition, and the one after the last."""
        async with self._in_turn() as consumer:
            first = await consumer.beginning_offsets(partitions)
            end = await consumer.end_offsets(partitions)
        return {tp: (first[tp], end[tp]) for tp in partitions}

    async def end(self, tp: TopicPartition, offset: int) -> int | None:
        """Return the end as a fetch from ``offset`` sees it, None if that is past the end.

        There are brokers whose listed end is too small by most of the last batch.
        """
        async with self._standing_at(tp, offset) as consumer:
            try:
                await consumer.getmany(tp, timeout_ms=END_FETCH_MS, max_records=1)
            except kafka.OffsetOutOfRangeError:
                return None
            return cast(int | None, consumer.highwater(tp))

    async def first(self, tp: TopicPartition, offset: int) -> Any | None:
        """Return the first record at or after an offset; None at the end, or if it takes long."""
        async with self._standing_at(tp, offset) as consumer:
            until_s = time.monotonic() + PEEK_S
            while time.monotonic() < until_s:
                found = await consumer.getmany(tp, timeout_ms=FETCH_MS, max_records=1)
                if tp in found:
                    return found[tp][0]
                stable, end = consumer.last_stable_offset(tp), consumer.highwater(tp)
                readable = stable if stable is not None and stable >= 0 else end
                if readable is not None and await consumer.position(tp) >= readable:
                    break
        return None

    async def kept_us(self, topics: Collection[str]) -> dict[str, int]:
        """Return for how long topics keep records, where that is limited and the broker tells."""
        for topic in topics:
            if topic not in self._kept_us:
                await self._ask_retention(topic)
        found = {topic: self._kept_us.get(topic) for topic in topics}
        return {topic: kept_us for topic, kept_us in found.items() if kept_us is not None}

    async def close(self) -> None:
        """Let go of the brokers."""
        consumer, admin = self._consumer, self._admin
        self._consumer = self._admin = None
        await clients.stop(consumer, admin)

    @asynccontextmanager
    async def _standing_at(
        self, tp: TopicPartition, offset: int
    ) -> AsyncIterator[AIOKafkaConsumer]:
        async with self._in_turn() as consumer:
            consumer.assign([tp])
            consumer.seek(tp, offset)
            yield consumer

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[AIOKafkaConsumer]:
        """The consumer, for one question at a time."""
        async with self._turn:
            with translated():
                if self._consumer is None:
                    consumer = AIOKafkaConsumer(
                        **self._config.client(),
                        enable_auto_commit=False,
                        auto_offset_reset="none",
                        isolation_level="read_committed",
                        fetch_max_wait_ms=100,
                    )
                    await clients.start(consumer)
                    self._consumer = consumer
                yield self._consumer

    async def _ask_retention(self, topic: str) -> None:
        """Remember the answer; a failure is said once, and asked again the next time."""
        try:
            with translated():
                self._kept_us[topic] = await self._retention_us(topic)
        except PitrError as error:
            if self._unknown.get(topic) != str(error):
                self._unknown[topic] = str(error)
                self._logger.info("retention_unknown", topic=topic, reason=str(error))

    async def _retention_us(self, topic: str) -> int | None:
        admin = await self._started_admin()
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        values: dict[str, str | None] = {}
        for resource in (each for answer in answers for each in answer.resources):
            code, entries = resource[0], resource[4]
            if code:
                raise kafka.for_code(code)(topic)
            values |= {entry[0]: entry[1] for entry in entries}
        if "delete" not in (values.get("cleanup.policy") or "delete"):
            return None
        kept_ms = int(values.get("retention.ms") or -1)
        return kept_ms * 1000 if kept_ms >= 0 else None

    async def _started_admin(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**self._config.client())
            await clients.start(admin)
            self._admin = admin
        return self._admin
