"""The URLs of topics to restore into: ``kafka://host:9092/topic?partitions=3``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pitr.domain.errors import InvalidRequest

PLACEHOLDER: Final = "{collection}"
TRANSACTION_TIMEOUT_S: Final = 900
"""The longest that brokers allow unless they are told otherwise."""

_BROKER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_FLAGS: Final = {"true": True, "false": False}
_NUMBERS_MAX: Final = {"partitions": 10_000, "transaction_timeout_s": 2_147_483}
_SHAPE: Final = "write kafka://host:9092/topic, several brokers with commas"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPlace:
    """Where to publish, and how; without ``bootstrap`` the brokers of the settings are meant.

    ``partitions`` is for topics that have to be made.
    """

    bootstrap: str | None
    topic: str
    partitions: int = 1
    transaction: bool = True
    idempotent: bool = True
    tombstones: bool = False
    transaction_timeout_s: int = TRANSACTION_TIMEOUT_S

    @property
    def shared(self) -> bool:
        """Whether all collections go to one topic, so that keys must name them."""
        return PLACEHOLDER not in self.topic

    def topic_of(self, collection: str) -> str:
        """Name the topic of a collection.

        Raises:
            InvalidRequest: The collection's name cannot be a part of a topic's name.
        """
        topic = self.topic.replace(PLACEHOLDER, collection)
        if not _is_topic(topic):
            raise InvalidRequest(
                "the collection's name makes no name for a topic",
                hint=f"name one topic for all, without {PLACEHOLDER}",
                collection=collection,
            )
        return topic


def parse_place(url: str) -> KafkaPlace:
    """Read a URL. What it holds is not repeated in errors: it may hold a password by mistake.

    Raises:
        InvalidRequest: It is no such URL, or it holds credentials.
    """
    if "@" in url:
        raise InvalidRequest(
            "the URL of a topic takes no user and password",
            hint="set PITR_KAFKA_USERNAME, PITR_KAFKA_PASSWORD and PITR_KAFKA_SECURITY",
        )
    try:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise InvalidRequest("that is no URL of a topic", hint=_SHAPE) from None
    brokers = parts.netloc.split(",") if parts.netloc else []
    topic = unquote(parts.path).removeprefix("/")
    if not all(_BROKER.fullmatch(broker) for broker in brokers):
        raise InvalidRequest("the URL names no brokers", hint=_SHAPE)
    if parts.fragment or not _is_topic(topic.replace(PLACEHOLDER, "x")):
        raise InvalidRequest("the URL names no topic", hint=_SHAPE)
    place = KafkaPlace(bootstrap=parts.netloc or None, topic=topic, **_parameters(given))
    if place.transaction and not place.idempotent:
        raise InvalidRequest(
            "a transaction needs an idempotent producer",
            hint="write ?transaction=false&idempotent=false",
        )
    return place


def _parameters(given: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("transaction", "idempotent", "tombstones"):
            if value not in _FLAGS:
                raise InvalidRequest(f"{name} is true or false", hint=f"write ?{name}=true")
            found[name] = _FLAGS[value]
        elif name in _NUMBERS_MAX:
            most = _NUMBERS_MAX[name]
            if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= most:
                raise InvalidRequest(f"{name} is a number from 1 to {most}")
            found[name] = int(value)
        else:
            known = ", ".join([*_NUMBERS_MAX, "transaction", "idempotent", "tombstones"])
            raise InvalidRequest("unknown parameter", hint=f"there are {known}", parameter=name)
    return found


def _is_topic(name: str) -> bool:
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")
