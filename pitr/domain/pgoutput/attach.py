"""Attaching a database, as a document: what is in the way, and what is made there, in order.

``attach_plan`` makes it, ``attach_findings`` looks for what is in the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.pgoutput.installed import Step
from pitr.domain.pgoutput.selection import LeftOut
from pitr.domain.pgoutput.source import SlotState, SourceTable

PREFIX: Final = "pitr_"
_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")
_INSERTS: Final = "_inserts"

IN_THE_WAY: Final = frozenset(("publication", "function", "event_trigger", "slot"))
"""What findings are about when something else has the name of what is to be made."""

Level = Literal["ok", "note", "warning", "refused"]
WithoutKey = Literal["refuse", "skip", "full", "inserts"]
"""What to do with a table whose updates and deletes PostgreSQL would refuse: refuse to attach,
leave it out, give it another replica identity, or capture only what is inserted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was looked at. ``about`` is a word that stays; ``hint`` the way out.

    ``statements`` are the SQL that helps, to be run by somebody who may.
    """

    about: str
    level: Level
    text: str
    hint: str | None = None
    statements: tuple[str, ...] = ()

    @property
    def way_out(self) -> str | None:
        """The hint with its statements."""
        lines = (self.hint, *(f"  {statement};" for statement in self.statements))
        return "\n".join(line for line in lines if line) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachNames:
    """What the things are called that attaching makes."""

    slot: str
    publication: str

    @property
    def inserts(self) -> str:
        """The publication of tables of which only inserts are captured."""
        return f"{self.publication}{_INSERTS}"


def names_of(name: str, *, slot: str | None = None, publication: str | None = None) -> AttachNames:
    """Name slot and publication after what is attached: ``pitr_<name>``.

    Raises:
        InvalidRequest: A slot cannot have this name.
    """
    names = AttachNames(
        slot=slot or f"{PREFIX}{name}", publication=publication or f"{PREFIX}{name}"
    )
    if not _NAME.fullmatch(names.slot) or names.slot == PREFIX:
        raise InvalidRequest(
            "a replication slot cannot have this name",
            hint="use up to 58 lower-case letters, digits and _, or name the slot yourself",
            slot=names.slot,
        )
    if not 0 < len(names.inserts.encode()) <= 63:
        raise InvalidRequest("the publication's name is too long", name=names.publication)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """How to attach.

    ``failover`` asks for a slot that follows to a standby (17). ``reasons`` is ``pitr.because``,
    ``ddl_trigger`` the event triggers that tell of DDL; None for both means where the role may.
    ``list_tables`` publishes tables by name even where all of a schema or database are chosen.
    """

    without_key: WithoutKey = "refuse"
    failover: bool = False
    reasons: bool | None = None
    ddl_trigger: bool | None = None
    list_tables: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPlan:
    """What attaching makes, and what was found. Nothing is made while a finding is ``refused``.

    ``tables`` are those that are captured, ``columns`` the chosen ones where they are not all.
    ``inserts_only`` are collections of which updates and deletes are not captured.
    ``publishes_generated`` says that stored generated columns are in the stream. ``slot`` is the
    replication slot if it is there already. ``undo`` gives tables back the replica identity that
    they had before.
    """

    names: AttachNames
    publications: tuple[str, ...]
    tables: tuple[SourceTable, ...]
    columns: Mapping[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...]
    inserts_only: tuple[str, ...]
    publishes_generated: bool
    follows_new_tables: bool
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    missing: tuple[Step, ...]
    """Those of ``steps`` that are not there yet."""
    slot: SlotState | None = None
    undo: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What has to be seen to first."""
        return tuple(finding for finding in self.findings if finding.level == "refused")

    @property
    def script(self) -> str:
        """What is still to be made, as SQL to be run in psql."""
        return "\n".join(step.script for step in self.missing)

    def check(self) -> None:
        """Refuse a plan that cannot be carried out.

        Raises:
            InvalidRequest: Something has to be seen to first; facts count what, the hint is the
                first of it.
            Conflict: Only that other things have the names of what is to be made.
        """
        if not self.refused:
            return
        first = min(self.refused, key=lambda finding: finding.about in IN_THE_WAY)
        family = Conflict if first.about in IN_THE_WAY else InvalidRequest
        raise family(
            f"the database cannot be attached: {first.text}",
            hint=first.way_out,
            about=first.about,
            refused=len(self.refused),
        )
