"""Who changed rows and why, as the app's own transactions say it.

``SELECT pg_logical_emit_message(true, 'pitr', '{"actor":"user:7","reason":"POST /checkout"}')``
holds for the changes of its transaction that follow it, until the next such message.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from pitr.domain.pgoutput.model import Transaction

REASON_PREFIX: Final = "pitr"


class Reason(msgspec.Struct):
    """What such a message may say; members of other names are left alone."""

    actor: str | None = None
    reason: str | None = None
    meta: msgspec.Raw | None = None


_decoder: Final = msgspec.json.Decoder(Reason)


class BadReason(ValueError):
    """The message is no such JSON object; the text says why."""


def reason_of(content: bytes) -> Reason:
    """Read the content of a message.

    Raises:
        BadReason: It cannot be read.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReason(str(error)) from error


def with_reason(transaction: Transaction, content: bytes) -> Transaction:
    """Return the transaction with what a message says; as it is if that cannot be read."""
    try:
        said = reason_of(content)
    except BadReason:
        return transaction
    meta = None if said.meta in (None, b"null") else bytes(said.meta or b"").decode()
    return replace(transaction, actor=said.actor, reason=said.reason, meta=meta)
