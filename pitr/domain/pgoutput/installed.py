"""What pitr puts into a source database, and how to tell that it is there.

Publications, a schema with two functions, three event triggers, a replication slot. What pitr
made carries a comment that says so, and only that is ever removed again; slots have no comments,
so a slot is known by its name. ``steps`` has the SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.identity import Repair
from pitr.domain.pgoutput.source import SlotState

MARK: Final = "made by pitr attach"
"""How the comment of everything that pitr made begins."""

_REPAIRED: Final = "; replica identities: "

Actions = frozenset[Literal["insert", "update", "delete", "truncate"]]
EVERY_ACTION: Final[Actions] = frozenset(("insert", "update", "delete", "truncate"))
WITHOUT_OLD_ROWS: Final[Actions] = frozenset(("insert", "truncate"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A table of a publication; ``columns`` None for all, ``where`` a row filter."""

    schema: str
    name: str
    columns: frozenset[str] | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a publication publishes. ``comment`` does not count in a comparison."""

    all_tables: bool = False
    schemas: frozenset[str] = frozenset()
    tables: frozenset[PublishedTable] = frozenset()
    actions: Actions = EVERY_ACTION
    via_root: bool = True
    generated: bool = False
    comment: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrigger:
    """An event trigger: its event, the function that it calls, whether it always fires."""

    event: str
    function: str
    always: bool = True
    comment: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function in the schema pitr, by the text of its body."""

    body: str
    comment: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWanted:
    """What a slot has to be."""

    database: str
    failover: bool = False

    def fits(self, slot: SlotState) -> bool:
        """Whether a slot can be used as it is."""
        kind = (slot.plugin, slot.database, slot.temporary, slot.two_phase)
        wanted = ("pgoutput", self.database, False, False)
        return kind == wanted and not slot.is_lost and (slot.failover or not self.failover)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What is there of it. ``schema`` is the comment of the schema pitr, None if there is none."""

    publications: Mapping[str, Publication] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    triggers: Mapping[str, EventTrigger] = field(default_factory=dict)
    slot: SlotState | None = None
    schema: str | None = None
    schema_writable: bool = False


StepKind = Literal["publication", "schema", "function", "event trigger", "slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to make, in one transaction. ``wanted`` is what it is once it is there.

    ``see`` shows what is there, in psql; ``instead`` are statements that make this of another
    thing of the same name.
    """

    kind: StepKind
    name: str
    statements: tuple[str, ...]
    wanted: Publication | Function | EventTrigger | SlotWanted | None
    see: str
    instead: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """As SQL to be run in psql."""
        text = "".join(f"{statement};\n" for statement in self.statements)
        return f"BEGIN;\n{text}COMMIT;\n" if len(self.statements) > 1 else text


def state_of(step: Step, installed: Installed) -> Literal["missing", "same", "other"]:
    """Say whether a thing is there, and is what it has to be."""
    found: object
    if step.kind == "slot":
        found = installed.slot
        assert isinstance(step.wanted, SlotWanted), "a slot's step wants a slot"
        same = installed.slot is not None and step.wanted.fits(installed.slot)
    elif step.kind == "schema":
        found, same = installed.schema, True
    else:
        places: dict[str, Mapping[str, object]] = {
            "publication": installed.publications,
            "function": installed.functions,
            "event trigger": installed.triggers,
        }
        found = places[step.kind].get(step.name)
        same = found == step.wanted
    if found is None:
        return "missing"
    return "same" if same else "other"


def is_marked(comment: str | None) -> bool:
    """Whether pitr made the thing that has this comment."""
    return comment is not None and comment.startswith(MARK)


def marked(repairs: Sequence[Repair]) -> str:
    """Write a publication's comment, with the tables that got another replica identity."""
    changed = {str(repair.relid): [repair.before, repair.after] for repair in repairs}
    return MARK + (f"{_REPAIRED}{orjson.dumps(changed).decode()}" if changed else "")


def repaired(comment: str | None) -> dict[int, tuple[str, str]]:
    """Read from a publication's comment which tables got another replica identity: from, to."""
    _, found, text = (comment or "").partition(_REPAIRED)
    if not found or not is_marked(comment):
        return {}
    try:
        return {int(relid): (old, new) for relid, (old, new) in orjson.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            "the comment of the publication cannot be read",
            hint="drop the publication yourself, and see to the tables' replica identities",
            comment=comment,
        ) from error
