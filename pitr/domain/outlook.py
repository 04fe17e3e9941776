"""What a restore would find and do in a sink: the part of a plan that the sink itself knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.sequence_log import SampledSequence

Action = Literal["make", "fill", "replace", "swap", "skip", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A state that would be restored, without its rows.

    ``counts`` are living rows by collection, ``schemas`` what tables were at the moment (those of
    an attached database), ``members`` the names in the documents of the others.
    """

    counts: Mapping[str, int]
    schemas: Mapping[str, TableSchema] = field(default_factory=dict)
    sequences: Sequence[SampledSequence] = ()
    whole: bool = True
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOutlook:
    """What would become of one collection.

    ``where`` is the table, file or topic; ``columns`` those that are written. ``unfit`` says of
    each column or member that exists on one side only what happens to it.
    """

    collection: str
    where: str
    action: Action
    rows: int
    columns: tuple[str, ...] = ()
    made_from: Literal["schema", "documents"] | None = None
    unfit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a restore would find and do.

    ``identity`` is what makes the place this one: a cluster and a database, a path, a topic.
    ``tables`` come in the order in which they are filled; ``sequences`` are moved; ``problems``
    say why the restore would be refused now.
    """

    where: str
    identity: Mapping[str, Any]
    tables: tuple[TableOutlook, ...] = ()
    sequences: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
