"""What the app says about its transaction, read as strictly as any other input."""

from __future__ import annotations

from typing import NamedTuple

from pitr.domain.change import DOCUMENT_BYTES_MAX
from pitr.domain.formats.fields import checked_text, is_null, object_members, text_of
from pitr.domain.formats.flaw import Flaw


class Said(NamedTuple):
    """Who changes rows and why; ``meta`` is JSON text."""

    actor: str | None = None
    reason: str | None = None
    meta: str | None = None


def said_by(content: bytes) -> Said:
    """Read the content of a message with the prefix ``pitr``; members of other names are ignored.

    Raises:
        Flaw: It is not such a JSON object, or holds what the log cannot.
    """
    members = object_members(content, name="message")
    meta = members.get("meta")
    if meta is None or is_null(meta):
        meta = None
    elif len(meta) > DOCUMENT_BYTES_MAX:
        raise Flaw("document_too_large", f"meta: is over {DOCUMENT_BYTES_MAX} bytes")
    return Said(
        actor=_text(members, "actor"),
        reason=_text(members, "reason"),
        meta=None if meta is None else meta.decode(),
    )


def _text(members: dict[str, bytes], name: str) -> str | None:
    value = members.get(name)
    if value is None or is_null(value):
        return None
    return checked_text(text_of(value, name=name), name=name)
