"""Plans of restores as documents: what one would do, hashed; whether that still holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.manifest import canonical_json, sha256_hex
from pitr.domain.outlook import Outlook, TableOutlook
from pitr.domain.rewind.plan import RewindPlan
from pitr.domain.rewind.scope import CutWithTorn
from pitr.domain.rewind.sight import OnConflict
from pitr.domain.times import rfc3339

FORMAT_VERSION: Final = 1

Mode = Literal["fresh", "swap", "rewind"]
PlaceKind = Literal["postgres", "kafka", "files", "stdout"]

_SCHEME: Final = re.compile(r"^([a-z][a-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """A place to restore into, and how; all that chooses a sink.

    ``place`` may hold a password here; a plan never does. ``format`` is of files; ``swap_id`` names
    what a swap leaves.
    """

    place: str
    mode: Mode = "fresh"
    force: bool = False
    format: Literal["ndjson", "csv", "parquet"] | None = None
    rows_only: bool = False
    drop_unknown: bool = False
    swap_id: str = ""

    @property
    def kind(self) -> PlaceKind:
        """What kind of place it is."""
        return place_kind(self.place)

    def options(self) -> dict[str, Any]:
        """How, as it stands in a plan."""
        return {
            "force": self.force,
            "format": self.format,
            "rows_only": self.rows_only,
            "drop_unknown": self.drop_unknown,
        }

    @property
    def changes_something(self) -> bool:
        """Whether what exists may be changed: a person has to say yes to that."""
        return self.kind in ("postgres", "kafka") or self.force


def place_kind(place: str) -> PlaceKind:
    """Tell what kind of place a URL, a path or ``-`` is."""
    scheme = _SCHEME.match(place)
    if place == "-":
        return "stdout"
    if scheme and scheme[1] in ("postgres", "postgresql"):
        return "postgres"
    return "kafka" if scheme and scheme[1] == "kafka" else "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, and the cut that it came to. None is everything.

    ``where`` are conditions on the documents of rows, as they were written.
    """

    log: str
    log_id: str
    target: str
    kind: str
    cut: CutWithTorn
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    where: tuple[str, ...] = ()
    accept_gaps: bool = False


def does(asked: Asked, into: Into, outlook: Outlook) -> dict[str, Any]:
    """Write down what a restore would do: the part of a plan that its hash is over.

    What is read is not in it: objects may be merged without a row becoming another.
    """
    cut, collections, keys = asked.cut, asked.collections, asked.keys
    return {
        "format": FORMAT_VERSION,
        "kind": "restore",
        "log": asked.log,
        "log_id": asked.log_id,
        "target": {
            "asked": asked.target,
            "kind": asked.kind,
            "seq_end": cut.seq_end,
            "at_us": cut.at_us,
            "at": rfc3339(cut.at_us),
            "without_tx": dict(cut.torn),
        },
        "collections": None if collections is None else sorted(collections),
        "keys": None if keys is None else [list(row) for row in sorted(keys)],
        "where": list(asked.where),
        "mode": into.mode,
        "options": into.options() | {"accept_gaps": asked.accept_gaps},
        "sink": {"kind": into.kind, **outlook.identity},
        "tables": [_table_document(each) for each in outlook.tables],
    }


def _table_document(table: TableOutlook) -> dict[str, Any]:
    return {
        "collection": table.collection,
        "where": table.where,
        "action": table.action,
        "rows": table.rows,
        "columns": list(table.columns),
        "made_from": table.made_from,
        "unfit": list(table.unfit),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRestore:
    """A restore as it was shown. ``does`` is what is hashed; ``seen`` is only for its reader."""

    does: Mapping[str, Any]
    hash: str
    seen: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, does: Mapping[str, Any], seen: Mapping[str, Any]) -> PlannedRestore:
        """Seal a plan with its hash."""
        return cls(does=does, hash=sha256_hex(canonical_json(does)), seen=seen)

    @property
    def row_count(self) -> int:
        """Rows of the state."""
        return sum(each["rows"] for each in self.does["tables"])

    @property
    def asked(self) -> Asked:
        """What it is a plan of."""
        target, keys = self.does["target"], self.does["keys"]
        collections = self.does["collections"]
        return Asked(
            log=self.does["log"],
            log_id=self.does["log_id"],
            target=target["asked"],
            kind=target["kind"],
            cut=CutWithTorn(
                seq_end=target["seq_end"], at_us=target["at_us"], torn=target["without_tx"]
            ),
            collections=None if collections is None else frozenset(collections),
            keys=None if keys is None else frozenset((name, key) for name, key in keys),
            where=tuple(self.does["where"]),
            accept_gaps=self.does["options"]["accept_gaps"],
        )

    def into(self, place: str) -> Into:
        """How it goes into a place: the plan's own, or the same one with a password."""
        options = {name: self.does["options"][name] for name in Into(place=place).options()}
        swap_id = self.seen.get("swap_id", "")
        return Into(place=place, mode=self.does["mode"], swap_id=swap_id, **options)

    def document(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {"does": self.does, "seen": self.seen, "hash": self.hash}

    def body(self) -> bytes:
        """The plan as canonical JSON."""
        return canonical_json(self.document())

    @classmethod
    def of_body(cls, body: bytes) -> PlannedRestore:
        """Read a plan back.

        Raises:
            InvalidRequest: It is none, or was altered.
        """
        try:
            document = orjson.loads(body)
            does, digest = document["does"], document["hash"]
            if does["format"] != FORMAT_VERSION or does["kind"] != "restore":
                raise ValueError("unknown format version")
            plan = cls(does=does, seen=document["seen"], hash=digest)
            known = plan.asked, plan.into("-"), plan.row_count, plan.seen["into"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest("this is no plan of a restore", reason=str(error)) from error
        if sha256_hex(canonical_json(does)) != digest or not known:
            raise InvalidRequest("the plan was altered", hint="make it anew", hash=digest)
        return plan


Plan = PlannedRestore | RewindPlan


def read_plan(body: bytes) -> Plan:
    """Read a plan of either kind: a restore, or what takes rows of a live database back.

    Raises:
        InvalidRequest: It is none, or was altered.
    """
    try:
        does = orjson.loads(body)["does"]
        restores = does.get("kind") == "restore"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            "this is no plan", hint="pitr plan … -o plan.json makes one", reason=str(error)
        ) from error
    return PlannedRestore.of_body(body) if restores else RewindPlan.of_body(body)


def place_of(plan: Plan, given: str | None = None) -> Into:
    """Return where a plan goes, and how; ``given`` names the same place, with a password.

    Raises:
        InvalidRequest: Neither the plan nor its user names a place.
    """
    place = given or plan.seen.get("into")
    if not isinstance(place, str):
        raise InvalidRequest("the plan does not name its place", hint="say --into URL")
    if isinstance(plan, PlannedRestore):
        return plan.into(place)
    return Into(place=place, mode="rewind")


def refusals(plan: Plan, *, on_conflict: OnConflict = "refuse") -> list[str]:
    """Say why a plan would be refused if it were applied as things are."""
    found = [*plan.seen.get("problems", ()), *_broken(plan.seen.get("references", {}))]
    conflicts = plan.seen.get("conflicts", {}).get("counts", {})
    if on_conflict != "refuse":
        return found
    return found + [
        f"{count} rows of {name} are not what the log says" for name, count in conflicts.items()
    ]


def _broken(references: Mapping[str, Any]) -> Iterable[str]:
    missing = references.get("missing", {}).get("count", 0)
    staying = references.get("staying", {}).get("count", 0)
    if missing:
        yield f"{missing} references to rows that would not be there; see --with-references"
    if staying:
        yield f"{staying} rows would be gone that others refer to"


def kind_of(plan: Plan) -> str:
    """Return ``restore``, ``rewind``, ``undo`` or ``revert``."""
    return "restore" if isinstance(plan, PlannedRestore) else plan.scope.kind


def check_same(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that what would be done is what was planned.

    Raises:
        Conflict: It is not; facts say what changed.
    """
    if canonical_json(planned) == canonical_json(found):
        return
    raise Conflict(
        "the plan does not hold any more",
        hint="make it anew, and look at what it says now",
        changed="; ".join(changes_between(planned, found)),
    )


def changes_between(planned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say in words what is not as planned."""
    if planned["sink"] != found["sink"]:
        return ["the place is another one"]
    before = {each["collection"]: each for each in planned["tables"]}
    after = {each["collection"]: each for each in found["tables"]}
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"{name} would not be restored any more")
        elif name not in before:
            changes.append(f"{name} would be restored, too")
        else:
            changes += _table_changes(name, before[name], after[name])
    if not changes and planned["tables"] != found["tables"]:
        changes.append("the order of the tables, that is their foreign keys")
    return changes or ["what was asked for"]


def _table_changes(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    if was["action"] != now["action"]:
        yield f"{now['where']} would be {_DONE[now['action']]}, not {_DONE[was['action']]}"
    if was["rows"] != now["rows"]:
        yield f"{name} has {now['rows']} rows, not {was['rows']}"
    if was["where"] != now["where"]:
        yield f"{name} would go to {now['where']}, not {was['where']}"
    if was["columns"] != now["columns"] or was["unfit"] != now["unfit"]:
        differing = sorted(set(was["columns"]) ^ set(now["columns"]))
        named = f": {', '.join(differing)}" if differing else ""
        yield f"the columns of {now['where']} changed{named}"
    if was["made_from"] != now["made_from"]:
        yield f"{now['where']} would be made otherwise"


_DONE: Final[Mapping[str, str]] = {
    "make": "made",
    "fill": "filled",
    "replace": "replaced",
    "swap": "exchanged",
    "skip": "left out",
    "write": "written",
}


def gap_documents(gaps: Sequence[Any]) -> list[dict[str, Any]]:
    """Known holes, as they stand in a plan."""
    return [
        {
            "lane": gap.lane,
            "collection": gap.collection,
            "seq_end": gap.seq_end,
            "reason": gap.reason,
        }
        for gap in gaps
    ]


def table_notes(outlook: Outlook) -> list[str]:
    """What the place says of itself and of its tables."""
    of_tables = [f"{each.collection}: {note}" for each in outlook.tables for note in each.notes]
    return [*outlook.notes, *of_tables]
