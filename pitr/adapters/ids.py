"""The one place that draws random ids."""

from __future__ import annotations

from uuid import uuid4


def random_id() -> str:
    """Return 32 hex digits that nobody else has (RFC 9562, version 4)."""
    return uuid4().hex
