"""What somebody asks for when attaching a database, and what the catalog keeps of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pitr.domain.errors import InvalidRequest
from pitr.domain.log import Source
from pitr.domain.pgoutput.attach import (
    AttachNames,
    AttachOptions,
    AttachPlan,
    WithoutKey,
    names_of,
)
from pitr.domain.pgoutput.selection import Selection

DETACHING: Final = "detaching"
"""The option of a source that is being detached: nobody follows it any more."""

NAME_CHARS_MAX: Final = 50
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{NAME_CHARS_MAX - 1}}}")
_UNFIT: Final = re.compile(r"[^a-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """What is asked for. ``url`` has no password.

    What is None is as it was, for a database that is attached already, or as it is by default.
    """

    url: str
    password: str | None = field(default=None, repr=False)
    name: str | None = None
    selection: Selection | None = None
    without_key: WithoutKey | None = None
    failover: bool | None = None
    reasons: bool | None = None
    ddl_trigger: bool | None = None


def fit_name(database: str) -> str:
    """Make a name for a source out of its database's.

    Raises:
        InvalidRequest: Nothing of it can be in a name.
    """
    name = _UNFIT.sub("_", database.lower()).strip("_-")[:NAME_CHARS_MAX]
    if not name:
        raise InvalidRequest(
            "the database's name gives none to attach it under",
            hint="say one: --name shop",
            database=database,
        )
    return name


def slot_names(name: str) -> AttachNames:
    """Return what is made in the database for a source of this name.

    Raises:
        InvalidRequest: It is no name for one.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "this is no name for an attached database",
            hint=f"use up to {NAME_CHARS_MAX} of a-z, 0-9, - and _, not - or _ first",
            name=name,
        )
    return names_of(name.replace("-", "_"))


def names_in(source: Source) -> AttachNames:
    """Return what was made in the database for a source."""
    return AttachNames(slot=source.slot, publication=source.publication)


def is_detaching(source: Source) -> bool:
    """Whether somebody has begun to detach it."""
    return bool(source.options.get(DETACHING))


def selection_for(request: AttachRequest, known: Source | None) -> Selection:
    """Return the tables to capture: those asked for, else as it was, else all."""
    if request.selection is not None or known is None:
        return request.selection or Selection()
    kept: Mapping[str, Any] = known.options.get("selection", {})
    return Selection(
        schemas=tuple(kept.get("schemas", ())),
        tables=tuple(kept.get("tables", ())),
        exclude=tuple(kept.get("exclude", ())),
        columns={table: tuple(names) for table, names in kept.get("columns", {}).items()},
    )


def options_for(request: AttachRequest, known: Source | None) -> AttachOptions:
    """Return how to attach: as asked for, else as it was, else as it is by default."""
    kept = {} if known is None else known.options

    def chosen(name: str, default: Any = None) -> Any:
        asked = getattr(request, name)
        return asked if asked is not None else kept.get(name, default)

    return AttachOptions(
        without_key=chosen("without_key", "refuse"),
        failover=bool(chosen("failover", False)),
        reasons=chosen("reasons"),
        ddl_trigger=chosen("ddl_trigger"),
    )


def kept_options(
    plan: AttachPlan, selection: Selection, options: AttachOptions, *, database: str
) -> dict[str, Any]:
    """Return what to keep of it in the catalog, as JSON."""
    return {
        "database": database,
        "selection": {
            "schemas": list(selection.schemas),
            "tables": list(selection.tables),
            "exclude": list(selection.exclude),
            "columns": {table: list(names) for table, names in selection.columns.items()},
        },
        "without_key": options.without_key,
        "failover": options.failover,
        "reasons": options.reasons,
        "ddl_trigger": options.ddl_trigger,
        "publications": list(plan.publications),
        "generated": plan.publishes_generated,
        "undo": list(plan.undo),
    }
