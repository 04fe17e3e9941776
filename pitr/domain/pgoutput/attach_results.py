"""What came of attaching and detaching a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pitr.domain.pgoutput.installed import StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step of a plan, and whether it was made now or was there."""

    kind: StepKind
    name: str
    did: Literal["made", "there"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Something that stays; ``statements`` take it away, to be run by somebody who may."""

    what: str
    why: str
    statements: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Detached:
    """What was taken away, and what stays."""

    removed: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
