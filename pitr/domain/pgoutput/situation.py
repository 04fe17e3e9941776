"""What findings are made from, and how they are worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.domain.pgoutput.attach import AttachNames, AttachOptions, Finding
from pitr.domain.pgoutput.installed import Installed, Step, state_of
from pitr.domain.pgoutput.publishing import Published
from pitr.domain.pgoutput.selection import Chosen
from pitr.domain.pgoutput.source import SourceFacts, SourceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that findings are made from."""

    facts: SourceFacts
    chosen: Chosen
    installed: Installed
    names: AttachNames
    options: AttachOptions
    holds: Published
    steps: tuple[Step, ...]

    def is_there(self, step: Step) -> bool:
        """Whether a step is done."""
        return state_of(step, self.installed) == "same"

    @property
    def may_make_functions(self) -> bool:
        """Whether the role can put functions into the schema pitr."""
        if self.installed.schema is not None:
            return self.installed.schema_writable
        return self.facts.may_create

    @property
    def publications(self) -> tuple[Step, ...]:
        """The steps that publish."""
        return tuple(step for step in self.steps if step.kind == "publication")

    @property
    def has_slot(self) -> bool:
        """Whether the slot is there."""
        return self.installed.slot is not None


def ok(about: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(about=about, level="ok", text=text)


def refused(about: str, text: str, hint: str, *statements: str) -> Finding:
    """It has to be seen to first."""
    return Finding(about=about, level="refused", text=text, hint=hint, statements=statements)


def some(tables: Sequence[SourceTable]) -> str:
    """Name the first few."""
    names = [table.collection for table in tables[:3]]
    more = len(tables) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
