"""The plan of a rewind: what it would do, hashed; and whether that still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.manifest import canonical_json, sha256_hex
from pitr.domain.rewind.scope import Scope
from pitr.domain.rewind.sight import Sight, TableSight

FORMAT_VERSION: Final = 1

MARK_PREFIX: Final = "before-rewind-"
REASON_PREFIX: Final = "rewind:"
LANE_PREFIX: Final = "rewind:"


def does(
    scope: Scope, differences: Mapping[str, CollectionDifference], sight: Sight
) -> dict[str, Any]:
    """Write down what a rewind would do: the part of a plan that its hash is over."""
    columns = {each.collection: each for each in sight.tables}
    collections = [
        _collection_document(each, columns[each.collection])
        for each in differences.values()
        if each.collection in columns
    ]
    return {
        "format": FORMAT_VERSION,
        "scope": scope.document(),
        "collections": [each for each in collections if _row_count(each)],
        "order": [each.table for each in sight.tables],
        "sink": sight.place.identity,
    }


def _collection_document(difference: CollectionDifference, table: TableSight) -> dict[str, Any]:
    counted: dict[str, Any] = {
        "insert": difference.inserts,
        "update": difference.updates,
        "delete": difference.deletes,
        "unknown": difference.unknown,
        "rows_sha256": difference.sha256,
    }
    if table.scan is not None:
        counted = {
            "insert": table.scan.inserts,
            "update": table.scan.updates,
            "delete": table.scan.deletes,
            "unknown": 0,
            "unknown_to_log": table.scan.unknown,
            "rows_sha256": table.scan.sha256,
        }
    return {
        "collection": difference.collection,
        "table": table.table,
        "key": list(difference.key),
        **counted,
        "columns": list(table.columns.written),
        "columns_on_one_side": [asdict(each) for each in table.columns.one_sided],
    }


def _row_count(collection: Mapping[str, Any]) -> int:
    count: int = collection["insert"] + collection["update"] + collection["delete"]
    return count


def plan_hash(does: Mapping[str, Any]) -> str:
    """SHA-256, hex, of what a rewind would do."""
    return sha256_hex(canonical_json(does))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindPlan:
    """A rewind as it was shown. ``does`` is what is hashed; ``seen`` is only for its reader."""

    does: Mapping[str, Any]
    hash: str
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        """What it is about."""
        return Scope.of_document(self.does["scope"])

    @property
    def row_count(self) -> int:
        """Rows that differ."""
        return sum(map(_row_count, self.does["collections"]))

    def document(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {"does": self.does, "seen": self.seen, "hash": self.hash}

    def body(self) -> bytes:
        """The plan as canonical JSON."""
        return canonical_json(self.document())

    @classmethod
    def of_body(cls, body: bytes) -> RewindPlan:
        """Read a plan back.

        Raises:
            InvalidRequest: It is none, or was altered.
        """
        try:
            document = orjson.loads(body)
            does, seen, digest = document["does"], document["seen"], document["hash"]
            if does["format"] != FORMAT_VERSION:
                raise ValueError("unknown format version")
            plan = cls(does=does, seen=seen, hash=digest)
            scope = plan.scope
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest("this is no plan of a rewind", reason=str(error)) from error
        if plan_hash(does) != digest or scope.document() != does["scope"]:
            raise InvalidRequest("the plan was altered", hint="make it anew", hash=digest)
        return plan


def check_same(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that what would be done is what was planned.

    Raises:
        Conflict: It is not; facts say what changed.
    """
    if plan_hash(planned) == plan_hash(found):
        return
    raise Conflict(
        "the plan does not hold any more",
        hint="make it anew, and look at what it says now",
        changed="; ".join(_changes(planned, found)),
    )


def _changes(planned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    changes = []
    if planned["sink"] != found["sink"]:
        changes.append("the database is another one")
    before = {each["collection"]: each for each in planned["collections"]}
    after = {each["collection"]: each for each in found["collections"]}
    for name in sorted(before.keys() | after.keys()):
        was, is_ = before.get(name, {}), after.get(name, {})
        if was.get("rows_sha256") != is_.get("rows_sha256"):
            changes.append(f"rows of {name} changed since")
        elif was != is_:
            changes.append(f"the table of {name} changed")
    if planned["order"] != found["order"] and not changes:
        changes.append("foreign keys changed")
    return changes or ["the target"]


def reason_of(operation_id: str, reason: str | None = None) -> str:
    """The reason that the changes of a rewind give: its id, and what its caller says."""
    named = f"{REASON_PREFIX}{operation_id}"
    return named if reason is None else f"{named}: {reason}"
