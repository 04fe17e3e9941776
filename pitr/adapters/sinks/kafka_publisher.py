"""A producer of batches: in a transaction or without one, with bounded waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka

from pitr.adapters.kafka.config import KafkaConfig, translated
from pitr.adapters.sinks.kafka_place import KafkaPlace
from pitr.domain.errors import Conflict, InvalidRequest, PitrError, Unavailable

TRANSACTIONAL_ID_PREFIX: Final = "pitr-restore-"
START_S: Final = 30.0
"""How long a broker may take to give out a producer id: the first one of a cluster takes long."""

DELIVERY_S: Final = 60.0
COMMIT_S: Final = 60.0
ABORT_S: Final = 10.0
STOP_S: Final = 5.0
UNDER_WAY_MAX: Final = 32
"""Batches handed to the producer and not yet taken by the broker."""

_LOST: Final = (
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidTxnState,
    kafka.OutOfOrderSequenceNumber,
)
_UNABLE: Final = (
    kafka.UnknownError,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.InvalidRequestError,
)
_TOO_LARGE: Final = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records for one partition; tombstones have no collection. ``first`` is the first key."""

    place: TopicPartition
    builder: Any
    collection: str | None
    first: bytes

    @property
    def rows(self) -> int:
        """How many records it has."""
        return int(self.builder.record_count())

    def add(self, key: bytes, value: bytes | None) -> bool:
        """Put a record in; False if it is full. An empty batch takes a record of any size."""
        return self.builder.append(timestamp=None, key=key, value=value) is not None


class Publisher:
    """Batches on their way; nothing of them is seen before ``commit``, given a transaction."""

    def __init__(self, producer: AIOKafkaProducer, place: KafkaPlace) -> None:
        self._producer = producer
        self._place = place
        self._begun_s: float | None = None
        self._under_way: deque[tuple[Batch, asyncio.Future[Any]]] = deque()
        self._expired = False
        self.sent = 0
        """Records that the broker has taken."""
        self.topics_sent: set[str] = set()
        self.fenced = False
        """Another restore took over, or may have."""
        self.committing = False
        """The end may have been decided; it cannot be taken back."""

    @property
    def seen_at_once(self) -> bool:
        """Whether readers see each record as soon as the broker has it."""
        return not self._place.transaction

    def new_batch(self, place: TopicPartition, *, collection: str | None, first: bytes) -> Batch:
        """Return an empty batch; may be called in any thread."""
        builder = self._producer.create_batch()
        return Batch(place=place, builder=builder, collection=collection, first=first)

    async def begin(self) -> None:
        """Begin the transaction, if there is to be one."""
        _check_not_cancelled()
        if self._place.transaction:
            with self._translated():
                await self._producer.begin_transaction()
        self._begun_s = asyncio.get_running_loop().time()

    async def send(self, batch: Batch) -> list[Batch]:
        """Hand over a batch; return those that the broker took since."""
        _check_not_cancelled()
        with self._translated(batch):
            sending = await self._producer.send_batch(
                batch.builder, batch.place.topic, partition=batch.place.partition
            )
        self._under_way.append((batch, sending))
        taken = []
        while self._under_way and (
            self._under_way[0][1].done() or len(self._under_way) > UNDER_WAY_MAX
        ):
            taken.append(await self._taken())
        return taken

    async def flush(self) -> list[Batch]:
        """Wait until the broker took all batches; return them."""
        return [await self._taken() for _ in range(len(self._under_way))]

    async def _taken(self) -> Batch:
        batch, sending = self._under_way[0]
        with self._translated(batch):
            async with asyncio.timeout(DELIVERY_S):
                await sending
        self._under_way.popleft()
        self.sent += batch.rows
        self.topics_sent.add(batch.place.topic)
        return batch

    async def commit(self) -> None:
        """Let readers see all of it at once.

        Raises:
            Conflict: Another restore into the topic took over; nothing is seen.
            Unavailable: The broker did not answer, so it may have happened or not.
        """
        _check_not_cancelled()
        self.committing = True
        if not self._place.transaction:
            return
        try:
            with self._translated():
                async with asyncio.timeout(COMMIT_S):
                    await self._producer.commit_transaction()
        except Unavailable as error:
            raise Unavailable(
                "the broker did not answer at the commit, so the restore may have succeeded",
                hint="look at the topic before you try again",
                reason=error.facts.get("reason"),
            ) from error
        except PitrError:
            self.committing = False
            raise

    async def abort(self) -> None:
        """Let nobody see it; if that is not possible, the broker does so by itself in time."""
        for _, sending in self._under_way:
            sending.cancel()
        if not self._place.transaction or self._begun_s is None:
            return
        if self.fenced or self._expired:
            return
        try:
            async with asyncio.timeout(ABORT_S):
                await self._producer.abort_transaction()
        except (kafka.KafkaError, TimeoutError, AssertionError):
            # Whoever could not be asked may belong to another restore by now.
            self.fenced = True

    @contextmanager
    def _translated(self, batch: Batch | None = None) -> Iterator[None]:
        try:
            with translated():
                yield
        except (InvalidRequest, Unavailable) as error:
            cause = error.__cause__
            if isinstance(cause, _LOST) and self._place.transaction:
                raise self._lost() from cause
            if isinstance(cause, _TOO_LARGE) and batch is not None:
                raise InvalidRequest(
                    "the broker takes no record that large",
                    hint="raise max.message.bytes of the topic",
                    topic=batch.place.topic,
                    collection=batch.collection,
                    key=batch.first.decode(),
                ) from cause
            raise

    def _lost(self) -> PitrError:
        timeout_s = self._place.transaction_timeout_s
        now_s = asyncio.get_running_loop().time()
        if self._begun_s is not None and now_s - self._begun_s >= timeout_s:
            self._expired = True
            return Unavailable(
                "the transaction took longer than the broker allows, so it was undone",
                hint="raise transaction.max.timeout.ms there and ?transaction_timeout_s= here,"
                " or restore single collections",
                transaction_timeout_s=timeout_s,
            )
        self.fenced = True
        return Conflict(
            "another restore into this topic took over, so this one was undone",
            hint="let one finish before the next",
            topic=self._place.topic,
        )


@asynccontextmanager
async def publisher_to(
    config: KafkaConfig, place: KafkaPlace, *, batch_bytes: int
) -> AsyncIterator[Publisher]:
    """Start a producer; its transactional id ends what another restore of ours left or does.

    Raises:
        InvalidRequest: The broker has no transactions, or refuses.
        Unavailable: No broker answers.
    """
    transactional: dict[str, Any] = {"enable_idempotence": place.idempotent}
    if place.transaction:
        transactional["transactional_id"] = TRANSACTIONAL_ID_PREFIX + place.topic
        transactional["transaction_timeout_ms"] = place.transaction_timeout_s * 1000
    producer = AIOKafkaProducer(
        **config.client(),
        **transactional,
        acks="all",
        compression_type="lz4",
        max_batch_size=batch_bytes,
    )
    try:
        await _start(producer, place)
        yield Publisher(producer, place)
    finally:
        await _stop(producer)


async def _start(producer: AIOKafkaProducer, place: KafkaPlace) -> None:
    parameter = "transaction" if place.transaction else "idempotent"
    try:
        with translated():
            async with asyncio.timeout(START_S):
                await producer.start()
    except InvalidRequest as error:
        if isinstance(error.__cause__, kafka.TransactionalIdAuthorizationFailed):
            raise InvalidRequest(
                "Kafka refuses the transactional id",
                hint="allow write on it, or publish without a transaction: ?transaction=false",
                transactional_id=TRANSACTIONAL_ID_PREFIX + place.topic,
            ) from error
        raise
    except Unavailable as error:
        cause = error.__cause__
        if isinstance(cause, kafka.InvalidTransactionTimeout):
            raise InvalidRequest(
                "the broker allows no transaction that long",
                hint="lower ?transaction_timeout_s=, or raise transaction.max.timeout.ms there",
                transaction_timeout_s=place.transaction_timeout_s,
            ) from error
        what = "transactions" if place.transaction else "idempotent producers"
        hint = f"publish without: ?{parameter}=false; docs/restore-kafka.md says what is lost"
        reason = error.facts.get("reason")
        if place.idempotent and isinstance(cause, _UNABLE):
            raise InvalidRequest(f"the broker has no {what}", hint=hint, reason=reason) from error
        if place.idempotent and isinstance(cause, TimeoutError):
            raise Unavailable(f"the broker's {what} do not answer", hint=hint) from error
        raise


def _check_not_cancelled() -> None:
    """Raise a cancellation that was lost: a client of aiokafka that closes keeps it to itself."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop; what is still under way by now belongs to a failure, and nobody waits for it."""
    accumulator = producer._message_accumulator
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]
    if waiting or accumulator._pending_batches:
        await _give_up(producer)
    try:
        async with asyncio.timeout(STOP_S):
            await producer.stop()
    except Exception as error:
        structlog.get_logger("pitr.kafka").info("stopping_failed", reason=repr(error))
        await producer.client.close()


async def _give_up(producer: AIOKafkaProducer) -> None:
    """End the sending: aiokafka would wait for a broker that is gone as long as that takes."""
    sending, accumulator = producer._sender.sender_task, producer._message_accumulator
    for _ in range(2):  # at the first, it still waits for requests; at the second, it does not
        if not sending.done():
            sending.cancel()
            await asyncio.wait({sending}, timeout=STOP_S / 2)
    waiting = {batch for batches in accumulator._batches.values() for batch in batches}
    waiting |= accumulator._pending_batches
    # One that was sent once and waits again takes itself out of this set when it fails.
    accumulator._pending_batches |= waiting
    accumulator.fail_all(kafka.ProducerClosed())
    for batch in waiting:  # or asyncio logs that nobody looked at these
        batch.future.exception()
        if batch._drain_waiter.done():
            batch._drain_waiter.exception()
