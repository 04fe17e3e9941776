"""The settings of Kafka, as its adapters take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from pitr.adapters.kafka import KafkaConfig
from pitr.adapters.kafka.feed import Subscription, checked_pattern, topic_of
from pitr.domain.errors import InvalidRequest
from pitr.domain.formats import Format
from pitr.domain.records import Reading
from pitr.settings import Settings


def kafka_config(settings: Settings, *, bootstrap: str | None = None) -> KafkaConfig:
    """Return how to reach the cluster; ``bootstrap`` stands in for the one of the settings.

    Raises:
        InvalidRequest: No broker is named.
    """
    bootstrap = bootstrap or settings.kafka_bootstrap
    if not bootstrap:
        raise InvalidRequest("no Kafka broker is named", hint="set PITR_KAFKA_BOOTSTRAP=host:9092")
    return KafkaConfig(
        bootstrap=bootstrap,
        security=settings.kafka_security,
        mechanism=settings.kafka_mechanism,
        username=settings.kafka_username,
        password=settings.kafka_password,
        ca_file=settings.kafka_ca_file,
        cert_file=settings.kafka_cert_file,
        key_file=settings.kafka_key_file,
        key_password=settings.kafka_key_password,
    )


def kafka_topics(settings: Settings) -> tuple[Subscription, Callable[[str], Reading]]:
    """Return what to capture, and how each lane's records are read.

    Raises:
        InvalidRequest: No topics are named, or names, formats or keys cannot be read.
    """
    topics = _names(settings.kafka_topics)
    pattern = settings.kafka_pattern
    if bool(topics) == (pattern is not None):
        raise InvalidRequest(
            "topics are named either one by one or by a pattern",
            hint="set PITR_KAFKA_TOPICS or PITR_KAFKA_PATTERN",
        )
    formats = {
        topic: _format(text) for topic, text in _pairs("formats", settings.kafka_formats).items()
    }
    keys = {
        topic: tuple(text.split("+"))
        for topic, text in _pairs("key_columns", settings.kafka_key_columns).items()
    }
    subscription = Subscription(
        group=settings.kafka_group or f"pitr-{settings.log}",
        topics=topics,
        pattern=None if pattern is None else checked_pattern(pattern),
        session_timeout_ms=round(settings.kafka_session_s * 1000),
    )

    def reading(lane: str) -> Reading:
        topic = topic_of(lane)
        return Reading(
            format=formats.get(topic, settings.kafka_format),
            collection=topic,
            key_columns=keys.get(topic),
        )

    return subscription, reading


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def _pairs(setting: str, text: str | None) -> dict[str, str]:
    found = {}
    for part in _names(text):
        topic, equals, value = part.partition("=")
        if not topic or not equals or not value:
            name = f"PITR_KAFKA_{setting.upper()}"
            raise InvalidRequest("a setting is wrong", hint=f"{name}: topic=value", given=part)
        found[topic.strip()] = value.strip()
    return found


def _format(text: str) -> Format:
    if text not in get_args(Format):
        raise InvalidRequest(
            "a setting is wrong",
            hint=f"PITR_KAFKA_FORMATS: one of {', '.join(get_args(Format))}",
            given=text,
        )
    return text  # type: ignore[return-value]
