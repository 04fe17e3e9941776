"""Attaches a database: looks at it, and makes what the plan says, one thing after the other.

Each thing is made in one transaction and is known again, so that an attach that broke off is
simply done again. ``detach`` is its counterpart.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import asyncpg

from pitr.adapters.postgres.inventory import read_installed
from pitr.adapters.postgres.source import SourceDatabase
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable
from pitr.domain.pgoutput.attach import AttachNames, AttachOptions, AttachPlan
from pitr.domain.pgoutput.attach_findings import in_the_way
from pitr.domain.pgoutput.attach_plan import plan_attach
from pitr.domain.pgoutput.attach_results import Done
from pitr.domain.pgoutput.installed import Step, state_of
from pitr.domain.pgoutput.selection import Selection

VERSION_MIN: Final = 14
"""Older servers lack what is asked of them here."""

SLOT_TIMEOUT_S: Final = 60.0
"""Longest wait for the transactions that were open when the slot was begun."""

_OLDEST: Final = (
    "SELECT pid, usename, application_name, xact_start, query FROM pg_stat_activity"
    " WHERE backend_xid IS NOT NULL ORDER BY xact_start"
)


async def attach_plan(
    source: SourceDatabase,
    names: AttachNames,
    *,
    selection: Selection | None = None,
    options: AttachOptions | None = None,
) -> AttachPlan:
    """Look at a database, and plan what attaching it makes; nothing is changed.

    Raises:
        NotFound: The selection names something that is not there.
        InvalidRequest: The server is too old to be looked at.
    """
    selection = selection or Selection()
    facts = await source.facts()
    if facts.major < VERSION_MIN:
        raise InvalidRequest(
            "the source is too old",
            hint=f"PostgreSQL {VERSION_MIN} and later can be captured",
            version=facts.version_text,
        )
    chosen = await source.tables(selection)
    async with source.pool.connection() as connection:
        installed = await read_installed(connection, names)
    return plan_attach(
        facts,
        chosen,
        installed,
        names=names,
        selection=selection,
        options=options or AttachOptions(),
    )


async def apply(
    source: SourceDatabase, plan: AttachPlan, *, slot_timeout_s: float = SLOT_TIMEOUT_S
) -> tuple[Done, ...]:
    """Make what is missing, in order; what is there already stays as it is.

    Raises:
        InvalidRequest: The plan says what has to be seen to first, or the role may not do it.
        Conflict: Something else has the name of what is to be made.
        Unavailable: Somebody holds a lock, or a transaction stays open: do it again later.
    """
    plan.check()
    done = []
    for step in plan.steps:
        did = await _make(source, plan.names, step, slot_timeout_s=slot_timeout_s)
        done.append(Done(kind=step.kind, name=step.name, did=did))
    return tuple(done)


async def _make(
    source: SourceDatabase, names: AttachNames, step: Step, *, slot_timeout_s: float
) -> Literal["made", "there"]:
    async with source.pool.connection() as connection:
        state = state_of(step, await read_installed(connection, names))
        if state == "other":
            finding = in_the_way(step)
            raise Conflict(finding.text, hint=finding.way_out)
        if state == "same":
            return "there"
        if step.kind == "slot":
            await _make_slot(connection, step, timeout_s=slot_timeout_s)
        else:
            async with connection.transaction():
                for statement in step.statements:
                    await connection.execute(statement)
    return "made"


async def _make_slot(connection: Any, step: Step, *, timeout_s: float) -> None:
    """Make the slot; PostgreSQL waits for all transactions that write, and then knows a start.

    A slot that was begun and not finished goes away by itself.
    """
    (statement,) = step.statements
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {int(timeout_s * 1000)}")
            await connection.execute(statement, timeout=timeout_s + 5)
    except (TimeoutError, asyncpg.LockNotAvailableError) as error:
        raise Unavailable(
            "the slot cannot begin while a transaction is open",
            hint=f"see which with {_OLDEST}; then attach again",
            waited_s=timeout_s,
        ) from error
