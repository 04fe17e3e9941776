"""The feed of a Kafka consumer group: lanes are partitions, positions are offsets.

aiokafka is never left to choose a position: each partition is given one by ``seek``, and every
poll checks that the consumer still stands where the last one ended.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka
from aiokafka.structs import OffsetAndMetadata

from pitr.adapters.kafka import clients
from pitr.adapters.kafka.config import KafkaConfig, translated
from pitr.adapters.kafka.peeker import Peeker
from pitr.domain.errors import InvalidRequest, Unavailable
from pitr.domain.formats.times import AT_US_END
from pitr.domain.ports import FeedListener, FeedPoll
from pitr.domain.records import Headers, Peeked, Records, digest_of

PREFIX = "kafka"
FETCH_BYTES = 64 * 1024 * 1024
PARTITION_FETCH_BYTES = 4 * 1024 * 1024
"""At least the longest record that a producer may send; a broker sends a longer one alone."""
POLL_RECORDS_MAX = 20_000
METADATA_AGE_MS = 5_000
"""How soon a new topic or partition is found."""
REBALANCE_TIMEOUT_MS = 30_000
POLL_INTERVAL_MAX_MS = 7 * 86_400_000
"""Lanes that are halted or full are not polled; heartbeats alone say that we are alive."""
SILENT_S = 5.0
"""Nobody has answered a fetch for so long: the brokers are away (aiokafka tries on in silence)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What to capture: topics by name, or all whose whole name matches ``pattern``."""

    group: str
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    session_timeout_ms: int = 10_000


class KafkaFeed:
    """A member of a consumer group."""

    def __init__(self, config: KafkaConfig, subscription: Subscription) -> None:
        self._config = config
        self._wanted = subscription
        self._consumer: AIOKafkaConsumer | None = None
        self._peeker = Peeker(config)
        self._next: dict[TopicPartition, int] = {}
        self._polled_s = self._heard_s = 0.0
        self._heard_ms = 0

    async def start(self, listener: FeedListener) -> None:
        """Join the group.

        Raises:
            InvalidRequest: Kafka refuses us, or a topic does not exist.
            Unavailable: No broker answers.
        """
        consumer = AIOKafkaConsumer(
            **self._config.client(),
            group_id=self._wanted.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            metadata_max_age_ms=METADATA_AGE_MS,
            session_timeout_ms=self._wanted.session_timeout_ms,
            heartbeat_interval_ms=self._wanted.session_timeout_ms // 4,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
        )
        members = _Members(listener, self._next)
        consumer.subscribe(
            topics=self._wanted.topics, pattern=self._wanted.pattern, listener=members
        )
        with translated():
            try:
                await clients.start(consumer)
            except kafka.KafkaConnectionError:
                await clients.knock(self._config)
                raise
        self._consumer = consumer

    async def poll(self, lanes: Sequence[str], *, timeout_s: float) -> FeedPoll:
        """Return what came in for these lanes, waiting at most ``timeout_s``."""
        consumer = self._joined()
        ours = consumer.assignment()
        wanted = [tp for tp in map(partition_of, lanes) if tp in ours and tp in self._next]
        problems: dict[str, str] = {}
        for tp in wanted.copy():
            if (await consumer.position(tp)) != self._next[tp]:
                problems[lane_of(tp)] = "the consumer does not stand where it ended"
                wanted.remove(tp)
        if not wanted:
            await asyncio.sleep(timeout_s)
            return FeedPoll(problems=problems)
        with translated():
            try:
                found = await self._records(consumer, wanted, timeout_s, problems)
            except kafka.IllegalStateError:  # a rebalance took a partition away meanwhile
                return FeedPoll(problems=problems)
            polled = await self._polled(consumer, wanted, found, problems)
        self._listen(consumer, wanted, polled)
        return polled

    def _listen(
        self, consumer: AIOKafkaConsumer, wanted: list[TopicPartition], polled: FeedPoll
    ) -> None:
        """Notice that no broker answers any more; a poll finds nothing then, and says no more."""
        now_s, ours = time.monotonic(), consumer.assignment()
        heard = [consumer.last_poll_timestamp(tp) or 0 for tp in wanted if tp in ours]
        heard_ms = max(heard, default=0)
        paused = now_s - self._polled_s > SILENT_S / 2
        self._polled_s = now_s
        if polled.records or polled.problems or paused or heard_ms != self._heard_ms:
            self._heard_ms, self._heard_s = heard_ms, now_s
        elif now_s - self._heard_s > SILENT_S:
            raise Unavailable("Kafka does not answer", hint="see the brokers of the partitions")

    async def _records(
        self,
        consumer: AIOKafkaConsumer,
        wanted: list[TopicPartition],
        timeout_s: float,
        problems: dict[str, str],
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        try:
            async with asyncio.timeout(timeout_s + 1):  # it waits for a rebalance without end
                return cast(
                    Mapping[TopicPartition, Sequence[Any]],
                    await consumer.getmany(
                        *wanted, timeout_ms=round(timeout_s * 1000), max_records=POLL_RECORDS_MAX
                    ),
                )
        except TimeoutError:
            return {}
        except kafka.NoOffsetForPartitionError:  # from before we gave it one
            return {}
        except kafka.OffsetOutOfRangeError as error:
            for tp in error.args[0]:
                problems[lane_of(tp)] = "its position is not among those that the broker has"
            return {}
        except (kafka.CorruptRecordException, kafka.RecordTooLargeError) as error:
            for tp in wanted:
                problems[lane_of(tp)] = f"a record cannot be fetched: {error}"
            return {}

    async def _polled(
        self,
        consumer: AIOKafkaConsumer,
        wanted: list[TopicPartition],
        found: Mapping[TopicPartition, Sequence[Any]],
        problems: dict[str, str],
    ) -> FeedPoll:
        records: list[Records] = []
        ends: dict[str, int] = {}
        idle_us: dict[str, int] = {}
        ours = consumer.assignment()
        for tp in wanted:
            lane = lane_of(tp)
            if tp not in ours or tp not in self._next or lane in problems:
                continue
            stands = await consumer.position(tp)
            if stands != self._next[tp]:
                records.append(_records_of(lane, self._next[tp], stands, found.get(tp, ())))
                self._next[tp] = stands
            end = consumer.highwater(tp)
            if end is None or end < 0:
                continue
            ends[lane] = end
            if stands > end and not found.get(tp):
                problems[lane] = "its position is past the end of what the broker has"
            # Not the last stable offset: what an open transaction holds is older than its end.
            polled_ms = consumer.last_poll_timestamp(tp)
            if polled_ms is not None and stands >= end:
                idle_us[lane] = polled_ms * 1000
        return FeedPoll(records=tuple(records), ends=ends, idle_us=idle_us, problems=problems)

    async def bounds(self, lanes: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return the first offset that is left of each lane, and the one after the last."""
        found = await self._peeker.bounds([partition_of(lane) for lane in lanes])
        return {lane_of(tp): bounds for tp, bounds in found.items()}

    async def end(self, lane: str, position: int) -> int | None:
        """Return the end as a fetch from ``position`` sees it, None if that is past the end."""
        return await self._peeker.end(partition_of(lane), position)

    async def peek(self, lane: str, position: int) -> Peeked | None:
        """Return the first record at or after an offset, None if there is none yet."""
        record = await self._peeker.first(partition_of(lane), position)
        if record is None:
            return None
        return Peeked(
            position=record.offset,
            digest=digest_of(record.key, record.value),
            time_us=_time_us(record.timestamp),
        )

    def seek(self, lane: str, position: int) -> None:
        """Let the lane give records from an offset on."""
        tp = partition_of(lane)
        with translated():
            self._joined().seek(tp, position)
        self._next[tp] = position

    async def released(self, positions: Mapping[str, int]) -> None:
        """Commit offsets, so that the usual tools show the lag."""
        consumer = self._joined()
        ours = consumer.assignment()
        offsets = {
            tp: OffsetAndMetadata(position, "")
            for lane, position in positions.items()
            if (tp := partition_of(lane)) in ours
        }
        if not offsets:
            return
        with translated():
            try:
                async with asyncio.timeout(clients.LEAVE_S):
                    await consumer.commit(offsets)
            except (kafka.IllegalStateError, kafka.CommitFailedError):  # they go to others now
                return

    async def kept_us(self, lanes: Sequence[str]) -> dict[str, int]:
        """Return for how long each lane's topic keeps records, where the broker tells."""
        kept_us = await self._peeker.kept_us({topic_of(lane) for lane in lanes})
        return {lane: kept_us[topic] for lane in lanes if (topic := topic_of(lane)) in kept_us}

    async def close(self) -> None:
        """Leave the group."""
        consumer, self._consumer = self._consumer, None
        await asyncio.gather(clients.stop(consumer), self._peeker.close())

    def _joined(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise InvalidRequest("the feed is not started, or closed")
        return self._consumer


class _Members(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes rebalances on; a partition has no position of its own until ``seek``."""

    def __init__(self, listener: FeedListener, positions: dict[TopicPartition, int]) -> None:
        self._listener = listener
        self._positions = positions

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._listener.revoked([lane_of(tp) for tp in revoked])
        self._positions.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._positions.clear()
        await self._listener.assigned([lane_of(tp) for tp in assigned])


def lane_of(partition: TopicPartition) -> str:
    """Name the lane of a partition. Topics hold no colon."""
    return f"{PREFIX}:{partition.topic}:{partition.partition}"


def partition_of(lane: str) -> TopicPartition:
    """Return the partition of a lane."""
    _, topic, partition = lane.split(":")
    return TopicPartition(topic, int(partition))


def topic_of(lane: str) -> str:
    """Return the topic of a lane."""
    return str(partition_of(lane).topic)


def checked_pattern(pattern: str) -> str:
    """Return an expression that matches whole names of topics.

    Raises:
        InvalidRequest: It is no regular expression.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidRequest(
            "the pattern of topics is no regular expression",
            hint="write it like shop\\..*",
            pattern=pattern,
            reason=str(error),
        ) from error
    return f"^(?:{pattern})$"


def _records_of(lane: str, first: int, end: int, found: Sequence[Any]) -> Records:
    values = [record.value for record in found]
    keys = [record.key for record in found]
    headers: list[Headers] | None = None
    if any(record.headers for record in found):
        headers = [record.headers for record in found]
    return Records(
        lane=lane,
        position_first=first,
        position_end=end,
        positions=[record.offset for record in found],
        values=values,
        keys=keys,
        times_us=[_time_us(record.timestamp) for record in found],
        headers=headers,
        size_bytes=sum(map(len, filter(None, values))) + sum(map(len, filter(None, keys))),
    )


def _time_us(timestamp: int | None) -> int | None:
    """A time that is none, as of a producer that counts nanoseconds, is as good as no time."""
    if timestamp is None or not 0 <= timestamp * 1000 < AT_US_END:
        return None
    return timestamp * 1000
