"""What a rewind is about: from which moment to which, and which rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.target import Cut, Resolution
from pitr.domain.times import rfc3339

Kind = Literal["rewind", "undo", "revert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutWithTorn:
    """A cut, with the first seq of each transaction that it leaves out."""

    seq_end: int
    at_us: int | None = None
    torn: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, resolution: Resolution) -> CutWithTorn:
        """The cut of a resolved target."""
        cut = resolution.cut
        return cls(
            seq_end=cut.seq_end,
            at_us=cut.at_us,
            torn={tx: resolution.torn.get(tx, 1) for tx in cut.without_tx},
        )

    @property
    def cut(self) -> Cut:
        """As replays take it."""
        return Cut(seq_end=self.seq_end, at_us=self.at_us, without_tx=frozenset(self.torn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a rewind is about; all that can change by it.

    ``then`` is the moment it goes back to, ``now`` what it goes back from. ``where`` are conditions
    on columns (``domain.where``) that a row meets then or now. ``brought`` are rows besides, which
    those that are put back refer to. With ``scan`` tables are compared as a whole. ``operation`` is
    the one that an undo undoes, ``tx`` the transaction that a revert does.
    """

    kind: Kind
    log: str
    log_id: str
    then: CutWithTorn
    now: CutWithTorn
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    where: tuple[str, ...] = ()
    brought: frozenset[tuple[str, str]] = frozenset()
    scan: bool = False
    operation: str | None = None
    tx: str | None = None
    rules: ColumnRules = field(default_factory=ColumnRules)

    def document(self) -> dict[str, Any]:
        """As it stands in a plan."""
        return {
            "kind": self.kind,
            "log": self.log,
            "log_id": self.log_id,
            "then": _cut_document(self.then),
            "now": _cut_document(self.now),
            "collections": None if self.collections is None else sorted(self.collections),
            "keys": None if self.keys is None else [list(row) for row in sorted(self.keys)],
            "where": list(self.where),
            "brought": [list(row) for row in sorted(self.brought)],
            "scan": self.scan,
            "operation": self.operation,
            "tx": self.tx,
            "rules": asdict(self.rules),
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Scope:
        """Read it back."""
        collections, keys = document["collections"], document["keys"]
        return cls(
            kind=document["kind"],
            log=document["log"],
            log_id=document["log_id"],
            then=_cut_of(document["then"]),
            now=_cut_of(document["now"]),
            collections=None if collections is None else frozenset(collections),
            keys=None if keys is None else frozenset((name, key) for name, key in keys),
            where=tuple(document["where"]),
            brought=frozenset((name, key) for name, key in document["brought"]),
            scan=document["scan"],
            operation=document["operation"],
            tx=document["tx"],
            rules=ColumnRules(**document["rules"]),
        )


def _cut_document(cut: CutWithTorn) -> dict[str, Any]:
    at = None if cut.at_us is None else rfc3339(cut.at_us)
    return {"seq_end": cut.seq_end, "at_us": cut.at_us, "at": at, "without_tx": dict(cut.torn)}


def _cut_of(document: Mapping[str, Any]) -> CutWithTorn:
    return CutWithTorn(
        seq_end=document["seq_end"], at_us=document["at_us"], torn=document["without_tx"]
    )
