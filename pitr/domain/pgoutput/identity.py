"""Whether a table's rows can be told apart in the stream, and what PostgreSQL would refuse.

A published table whose replica identity names no columns refuses every UPDATE and DELETE: the
app breaks, not the capture. So this is looked at before anything is published. Of a partitioned
table PostgreSQL asks the partition that a row lies in, but describes the root in the stream: the
two have to agree.

Source: PostgreSQL documentation, "Logical Replication: Publication", and ``execReplication.c``
(``CheckCmdReplicaIdentity``) and ``relcache.c`` (``RelationBuildPublicationDesc``) of 15 and 18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pitr.domain.pgoutput.schema import Identity
from pitr.domain.pgoutput.source import Leaf, SourceTable

GENERATED_SINCE: Final = 18
"""The first version that publishes stored generated columns, and checks for them."""

_IDENTITIES: Final[Mapping[Identity, str]] = {"d": "DEFAULT", "f": "FULL", "n": "NOTHING"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Give a table or partition another replica identity; ``before`` is what it has."""

    relid: int
    quoted: str
    before: Identity
    after: Identity

    @property
    def statement(self) -> str:
        """The SQL."""
        return f"ALTER TABLE {self.quoted} REPLICA IDENTITY {_IDENTITIES[self.after]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a table cannot be published with updates and deletes.

    ``repairs`` together do away with it; there are none where only the table's owner can, by a
    primary key.
    """

    table: SourceTable
    reason: str
    repairs: tuple[Repair, ...] = field(default=())


def identity_trouble(table: SourceTable, *, major: int) -> Trouble | None:
    """Say what is in the way of publishing a table as it is; None if nothing is."""
    reason = _own_trouble(table, major) or _leaf_trouble(table, major)
    if reason is None:
        return None
    return Trouble(table=table, reason=reason, repairs=_repairs(table, major))


def needs_generated(table: SourceTable, *, mended: Trouble | None, major: int) -> bool:
    """Say whether stored generated columns have to be published for a table to be updated.

    ``mended`` is the trouble that the table had, once its repairs are made.
    """
    if major < GENERATED_SINCE or not table.stored:
        return False
    after = {repair.relid: repair.after for repair in mended.repairs} if mended else {}
    places: tuple[SourceTable | Leaf, ...] = (table, *_leaves(table))
    if any(after.get(place.relid, place.identity) == "f" for place in places):
        return True
    key = table.key_columns if after.get(table.relid) == "d" else table.identity_columns
    return not {*key}.isdisjoint(table.stored)


def _own_trouble(table: SourceTable, major: int) -> str | None:
    if table.identity == "f":
        return _virtual(table, major)
    if not table.identity_columns:
        return _missing(table)
    if _is_hidden(table.identity_columns, table, major):
        return "its key has a generated column, which is not published before PostgreSQL 18"
    return None


def _virtual(table: SourceTable, major: int) -> str | None:
    if table.virtual and major >= GENERATED_SINCE:
        return "the replica identity FULL does not go with a virtual generated column"
    return None


def _missing(table: SourceTable) -> str:
    if table.identity == "n":
        return "its replica identity is NOTHING"
    if table.identity == "i":
        return "the index of its replica identity is gone"
    return "its primary key is deferrable" if table.deferrable_key else "it has no primary key"


def _is_hidden(columns: tuple[str, ...], table: SourceTable, major: int) -> bool:
    return major < GENERATED_SINCE and not {*columns}.isdisjoint(table.stored)


def _leaf_trouble(table: SourceTable, major: int) -> str | None:
    """A root is described in the stream; each old row is written as its partition wants it."""
    other = [leaf for leaf in _leaves(table) if not _agrees(table, leaf)]
    if other:
        some = ", ".join(leaf.quoted for leaf in other[:3])
        return f"{len(other)} of its partitions have another replica identity, as {some}"
    whole = any(leaf.identity == "f" for leaf in _leaves(table))
    return _virtual(table, major) if whole else None


def _agrees(table: SourceTable, leaf: Leaf) -> bool:
    if table.identity == "f" or leaf.identity == "f":
        return leaf.identity == "f"
    return {*table.identity_columns} <= {*leaf.identity_columns}


def _leaves(table: SourceTable) -> tuple[Leaf, ...]:
    """The partitions whose rows are in the stream."""
    return tuple(leaf for leaf in table.leaves if leaf.logged and not leaf.is_foreign)


def _repairs(table: SourceTable, major: int) -> tuple[Repair, ...]:
    """The key where there is one that is published, else the whole row where that is possible."""
    usable = table.key_columns and not _is_hidden(table.key_columns, table, major)
    stays_whole = table.identity == "f" and _virtual(table, major) is None
    after: Identity = "d" if usable and not stays_whole else "f"
    if after == "f" and _virtual(table, major):
        return ()
    places: tuple[SourceTable | Leaf, ...] = (table, *_leaves(table))
    return tuple(
        Repair(relid=place.relid, quoted=place.quoted, before=_named(place), after=after)
        for place in places
        if place.identity != after
    )


def _named(place: SourceTable | Leaf) -> Identity:
    """An index that is gone cannot be named again; it is as good as nothing."""
    return "n" if place.identity == "i" and not place.identity_columns else place.identity
