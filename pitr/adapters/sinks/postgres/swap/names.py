"""The schemas of a swap, by name: where new tables are made, and where old ones are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pitr.adapters.sinks.postgres.tables import IDENTIFIER_BYTES_MAX
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.source import SWAP_MARK

NEW_PREFIX: Final = "pitr_new_"
OLD_PREFIX: Final = "pitr_old_"

MARK: Final = SWAP_MARK
"""What the comment of each such schema begins with; nothing without it is ever dropped."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9_]*")
_SCHEMAS_MAX: Final = 10_000


def checked_id(swap_id: str) -> str:
    """Return an id that can be part of a schema's name.

    Raises:
        InvalidRequest: It has other characters than ``a-z0-9_``, or is too long.
    """
    longest = len(f"{NEW_PREFIX}{swap_id}_{_SCHEMAS_MAX}".encode())
    if not _ID.fullmatch(swap_id) or longest > IDENTIFIER_BYTES_MAX:
        raise InvalidRequest(
            "the swap's id cannot be part of a schema's name",
            hint="use at most 48 of a-z, 0-9 and _",
            id=swap_id,
        )
    return swap_id


def schema_names(prefix: str, swap_id: str, live: Iterable[str]) -> dict[str, str]:
    """Say which schema stands for each live one: tables of two schemas may have one name."""
    return {
        name: f"{prefix}{swap_id}" + (f"_{number}" if number > 1 else "")
        for number, name in enumerate(sorted(set(live)), 1)
    }
