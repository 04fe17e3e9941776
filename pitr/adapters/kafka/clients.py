"""Starts and stops aiokafka's clients so that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeAlias

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn

from pitr.adapters.kafka.config import KafkaConfig

LEAVE_S = 3.0
"""How long a broker may take to note what we tell it; nothing depends on it."""

START_S = 60.0
"""How long a client may take to start: with brokers that name themselves otherwise than they can be
reached, it would try for ever."""

Client: TypeAlias = AIOKafkaConsumer | AIOKafkaAdminClient


async def start(client: Client) -> None:
    """Start a client; one that cannot start is stopped."""
    try:
        async with asyncio.timeout(START_S):
            await client.start()
    except BaseException:
        await _stopping(client)
        raise


async def stop(*clients: Client | None) -> None:
    """Stop clients all at once, and wait for none longer than ``LEAVE_S``."""
    await asyncio.gather(*(_stop(client) for client in clients if client is not None))


async def _stop(client: Client) -> None:
    # In a task: with the brokers away, a client ends as cancelled, and we are not.
    stopping = asyncio.ensure_future(_stopping(client))  # noqa: TID251 - awaited here
    try:
        await asyncio.wait([stopping], timeout=LEAVE_S)
    finally:
        ended = stopping.done() and not stopping.cancelled()
        stopping.cancel()
    if not ended or stopping.exception() is not None:
        logger = structlog.get_logger("pitr.kafka")
        logger.info("leaving_failed", clients=type(client).__name__)


async def _stopping(client: Client) -> None:
    await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


async def knock(config: KafkaConfig) -> None:
    """Log in at one broker by hand: a client that finds none keeps the reason to itself."""
    given = config.client()
    host, _, port = given.pop("bootstrap_servers").partition(",")[0].rpartition(":")
    with contextlib.suppress(OSError, ValueError, kafka.KafkaConnectionError):
        (await create_conn(host, int(port), **given)).close()
