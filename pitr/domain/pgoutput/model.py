"""What the parts of PostgreSQL capture hand each other: tables, transactions, parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Form = Literal["integer", "number", "boolean", "string", "array"]
"""How a type's text becomes JSON; ``docs/postgres-types.md`` has the table.

``integer``: the text is a JSON number. ``number``: so, but for ``NaN`` and the infinities, which
are strings. ``boolean``: ``t`` and ``f``. ``array``: a JSON array of its element's form; the text
as a string where it has bounds of its own. ``string``: everything else, the exact text.
"""

SESSION: Final = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
}
"""The settings that decide how values are written; every session that reads rows pins them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the stream describes it. ``element`` is the form inside an ``array``."""

    name: str
    type_oid: int
    typmod: int
    form: Form
    element: Form | None = None
    in_identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A published table at one time of its life.

    ``identity`` is its replica identity: ``d`` (primary key), ``i`` (an index), ``f`` (the whole
    row), ``n`` (nothing). ``key`` names the columns of its rows' key; all of them if the table has
    none and the identity is the whole row.
    """

    relid: int
    schema: str
    name: str
    identity: Literal["d", "i", "f", "n"]
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def collection(self) -> str:
        """The collection of its rows."""
        return f"{self.schema}.{self.name}"

    @property
    def is_keyed_by_row(self) -> bool:
        """Whether whole rows are the keys; a null is left out of such a key."""
        return len(self.key) == len(self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A source transaction under way in the stream.

    ``lsn`` is the position of its commit record; ``done`` its row changes that were seen so far, a
    ``TRUNCATE`` counts one for each table. ``actor``, ``reason`` and ``meta`` (JSON text) come
    from ``pg_logical_emit_message(true, 'pitr', …)`` and hold for the changes that follow it.
    """

    lsn: int
    commit_us: int
    xid: int
    done: int = 0
    actor: str | None = None
    reason: str | None = None
    meta: str | None = None

    @property
    def tx(self) -> str:
        """Its name in the log: unique in the life of a database cluster's timeline."""
        return f"{self.xid}:{lsn_text(self.lsn)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Messages that become one batch: whole transactions, or a piece of a large one.

    ``messages`` are pgoutput messages in stream order, of the kinds ``B`` ``C`` ``I`` ``U`` ``D``
    ``T`` and ``M`` with the prefix ``pitr``; no ``R``, ``Y`` or ``O``. ``open_before`` is the
    transaction that the first of them lies in, ``open_after`` the one that the last leaves open.
    ``lsn`` is where the stream may be released and begun again once the part is stored: the end
    of its last whole transaction.
    """

    messages: list[bytes]
    relations: dict[int, Relation]
    open_before: Transaction | None = None
    open_after: Transaction | None = None
    lsn: int = 0
    size_bytes: int = 0
    rows: int = field(default=0)


def lsn_text(lsn: int) -> str:
    """Write a position in the WAL as PostgreSQL does: ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    """Read a position in the WAL."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)
