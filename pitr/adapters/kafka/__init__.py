"""Kafka, by aiokafka: the feed that capture pulls from, and what every client needs."""

from __future__ import annotations

from pitr.adapters.kafka.config import KafkaConfig
from pitr.adapters.kafka.feed import KafkaFeed

__all__ = ["KafkaConfig", "KafkaFeed"]
