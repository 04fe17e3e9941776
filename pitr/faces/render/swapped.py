"""Tables that swaps replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pitr.faces.render.text import size, table


class Swapped(Protocol):
    """The tables that one swap replaced."""

    @property
    def swap_id(self) -> str:
        """How it is called."""
        ...

    @property
    def at(self) -> str:
        """When, RFC 3339."""
        ...

    @property
    def tables(self) -> Mapping[str, str]:
        """Where the old one of each table is."""
        ...

    @property
    def size_bytes(self) -> int:
        """What dropping them frees."""
        ...


def swapped_table(found: Sequence[Swapped]) -> str:
    """One line for each table."""
    rows = [
        (each.swap_id, each.at, live, old, size(each.size_bytes))
        for each in found
        for live, old in each.tables.items()
    ]
    headers = ("SWAP", "AT", "TABLE", "OLD", "SIZE OF ALL")
    return table(headers, rows, right=frozenset({"SIZE OF ALL"}))
