"""Which format an input is in, by its fields; what is neither is taken for native.

The two share no input: a Debezium record has a field that native changes must not have.
"""

from __future__ import annotations

import msgspec

from pitr.domain.formats.debezium import is_envelope, is_flattened
from pitr.domain.formats.fields import members


def is_debezium(value: bytes) -> bool:
    """Tell whether a value is a Debezium record, or a tombstone."""
    if value.strip() == b"null":
        return True
    try:
        fields = members(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if fields.keys() == {"key", "value"}:
        return fields["value"] == b"null" or is_debezium(fields["value"])
    return "payload" in fields or is_envelope(fields) or is_flattened(fields)
