"""Who changed rows and why, as the app's own transactions say it.

``SELECT pg_logical_emit_message(true, 'pitr', '{"actor":"user:7","reason":"POST /checkout"}')``
holds for the changes of its transaction that follow it, until the next such message.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pitr.domain.formats.flaw import Flaw
from pitr.domain.pgoutput.model import Transaction
from pitr.domain.pgoutput.said import said_by

REASON_PREFIX: Final = "pitr"


def with_reason(transaction: Transaction, content: bytes) -> Transaction:
    """Return the transaction with what a message says; as it is if that cannot be read."""
    try:
        said = said_by(content)
    except Flaw:
        return transaction
    return replace(transaction, **said._asdict())
