"""What a captured table is, as a document: enough to make it again, and to see what became of it.

A document holds columns, keys, constraints, indexes, sequences, partitions and the types they
use. It leaves out rights, row security, triggers, rules, comments, storage parameters, statistics
and the functions that expressions call: those belong to the app's migrations.

Expressions and types are as PostgreSQL prints them with ``search_path = pg_catalog``, so names of
everything else carry their schema.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import msgspec

from pitr.domain.errors import DataLoss
from pitr.domain.manifest import canonical_json, sha256_hex

FORMAT_VERSION: Final = 1

TableKind = Literal["table", "partitioned", "foreign"]
Identity = Literal["d", "i", "f", "n"]
"""Replica identity: the primary key, an index, the whole row, nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column. ``number`` stays when the name changes.

    ``identity`` is ``a`` (always) or ``d`` (by default); ``generated`` the expression of a column
    that PostgreSQL fills, with ``virtual`` where nothing of it is stored; ``collation`` is given
    if it is not the type's own. ``missing`` is what rows have that are older than the column.
    ``written`` changes whenever the column is altered.
    """

    number: int
    name: str
    type: str
    type_oid: int
    typmod: int = -1
    not_null: bool = False
    default: str | None = None
    identity: Literal["", "a", "d"] = ""
    generated: str | None = None
    virtual: bool = False
    collation: str | None = None
    missing: str | None = None
    written: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A primary key, or a unique, check or exclusion constraint. ``definition`` is its SQL."""

    kind: Literal["primary", "unique", "check", "exclude"]
    name: str
    columns: tuple[str, ...]
    definition: str
    deferrable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key; ``on_update`` and ``on_delete`` in SQL's words."""

    name: str
    columns: tuple[str, ...]
    schema: str
    table: str
    referenced: tuple[str, ...]
    on_update: str
    on_delete: str
    definition: str
    deferrable: bool = False
    initially_deferred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that no constraint stands behind. ``where`` is the condition of a partial one.

    ``columns`` are the names of the plain columns in its key, None for an expression.
    """

    name: str
    unique: bool
    columns: tuple[str | None, ...]
    where: str | None
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSchema:
    """A sequence that a column owns, or that its default names.

    ``last_value`` is None where the role may not read it.
    """

    schema: str
    name: str
    relid: int
    column: str
    owned: bool
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool
    last_value: int | None = None
    is_called: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedType:
    """A type outside ``pg_catalog`` that a column is made of.

    ``labels`` are an enum's, in order; ``base`` is what a domain or a range is over; ``attributes``
    are a composite's: name and type; ``checks`` a domain's. A type of an extension has only its
    name and ``extension``.
    """

    kind: Literal["enum", "domain", "composite", "range", "base"]
    schema: str
    name: str
    oid: int
    extension: str | None = None
    labels: tuple[str, ...] = ()
    base: str | None = None
    not_null: bool = False
    default: str | None = None
    checks: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition at any depth. ``parent`` is the relid of what it is a partition of.

    ``born`` says that it was made as a partition, and so was empty then; False where that cannot
    be told. ``storage`` changes whenever all its rows are written anew.
    """

    relid: int
    parent: int
    schema: str
    name: str
    kind: TableKind
    bound: str
    partition_key: str | None = None
    logged: bool = True
    born: bool = False
    storage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSchema:
    """A table at one moment.

    ``former`` are names that columns had which are gone since the table was read as a whole: old
    rows in the log still have them. ``storage`` changes whenever all rows are written anew.
    """

    schema: str
    name: str
    relid: int
    kind: TableKind
    logged: bool
    identity: Identity
    identity_columns: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    primary_key: Constraint | None = None
    constraints: tuple[Constraint, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    sequences: tuple[SequenceSchema, ...] = ()
    types: tuple[UsedType, ...] = ()
    partition_key: str | None = None
    partitions: tuple[Partition, ...] = ()
    storage: int = 0
    former: tuple[str, ...] = ()

    @property
    def collection(self) -> str:
        """The collection of its rows."""
        return f"{self.schema}.{self.name}"

    @property
    def row_key(self) -> tuple[str, ...]:
        """The columns of its rows' key in the log; all that are published if it has none."""
        if self.identity in ("d", "i") and self.identity_columns:
            return self.identity_columns
        if self.primary_key is not None and not self.primary_key.deferrable:
            return self.primary_key.columns
        return tuple(column.name for column in self.columns if column.generated is None)

    @property
    def digest(self) -> str:
        """SHA-256, hex, of what the table is: not of where it is stored, nor of its sequences."""
        return sha256_hex(canonical_json(_lasting(asdict(self))))

    def body(self) -> bytes:
        """The document as canonical JSON."""
        return canonical_json({"format": FORMAT_VERSION, **asdict(self)})

    def without_values(self) -> TableSchema:
        """The document without what sequences stand at, which changes with every insert."""
        sequences = tuple(replace(s, last_value=None, is_called=None) for s in self.sequences)
        return replace(self, sequences=sequences)

    def following(self, before: TableSchema) -> TableSchema:
        """This document, with the names in mind that columns had in the one before it.

        For a table that goes on without being read again; see ``schema_change.difference``.
        """
        now = {column.name for column in self.columns}
        names = {*before.former, *(column.name for column in before.columns)}
        return replace(self, former=tuple(sorted(names - now)))


_PASSING: Final = ("written", "storage", "former", "born", "last_value", "is_called")


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(inner) for name, inner in value.items() if name not in _PASSING}
    if isinstance(value, tuple):
        return [_lasting(inner) for inner in value]
    return value


class _Format(msgspec.Struct):
    format: int


def schema_from_body(body: bytes) -> TableSchema:
    """Read a document back.

    Raises:
        DataLoss: The bytes are not a document of a known format version.
    """
    try:
        if msgspec.json.decode(body, type=_Format).format != FORMAT_VERSION:
            raise ValueError("unknown format version")
        return msgspec.json.decode(body, type=TableSchema)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise DataLoss("a table's schema document cannot be read", reason=str(error)) from error
