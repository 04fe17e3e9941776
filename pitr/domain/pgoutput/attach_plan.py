"""Makes the plan to attach a database; it touches nothing."""

from __future__ import annotations

from pitr.domain.pgoutput.attach import AttachNames, AttachOptions, AttachPlan
from pitr.domain.pgoutput.attach_findings import findings
from pitr.domain.pgoutput.identity import Repair
from pitr.domain.pgoutput.installed import Installed, SlotWanted, Step, repaired, state_of
from pitr.domain.pgoutput.publishing import Published, publication_steps, published
from pitr.domain.pgoutput.selection import Chosen, LeftOut, Selection
from pitr.domain.pgoutput.situation import Situation
from pitr.domain.pgoutput.source import SourceFacts
from pitr.domain.pgoutput.steps import (
    BECAUSE_STEP,
    DDL_STEP,
    SCHEMA_STEP,
    TRIGGER_STEPS,
    slot_step,
)


def plan_attach(
    facts: SourceFacts,
    chosen: Chosen,
    installed: Installed,
    *,
    names: AttachNames,
    selection: Selection,
    options: AttachOptions,
) -> AttachPlan:
    """Plan to attach a database, from what was read of it."""
    holds = published(facts, chosen, selection, options)
    steps = (
        *publication_steps(names, holds),
        *_offered(facts, options, installed),
        slot_step(names.slot, SlotWanted(database=facts.database, failover=options.failover)),
    )
    situation = Situation(
        facts=facts,
        chosen=chosen,
        installed=installed,
        names=names,
        options=options,
        holds=holds,
        steps=steps,
    )
    skipped = holds.unsound if options.without_key == "skip" else ()
    return AttachPlan(
        names=names,
        publications=tuple(step.name for step in steps if step.kind == "publication"),
        tables=holds.tables,
        columns=holds.columns,
        left_out=(
            *chosen.left_out,
            *(LeftOut(collection=t.table.collection, reason=t.reason) for t in skipped),
        ),
        inserts_only=tuple(table.collection for table in holds.inserts),
        publishes_generated=holds.generated,
        follows_new_tables=holds.scope != "tables",
        findings=findings(situation),
        steps=steps,
        missing=tuple(step for step in steps if state_of(step, installed) == "missing"),
        slot=installed.slot,
        undo=_undo(chosen, installed, names, holds),
    )


def _undo(
    chosen: Chosen, installed: Installed, names: AttachNames, holds: Published
) -> tuple[str, ...]:
    """Return what undoes the changes of replica identities, these and those made before."""
    publication = installed.publications.get(names.publication)
    changed = repaired(publication.comment) if publication is not None else {}
    changed |= {repair.relid: (repair.before, repair.after) for repair in holds.repairs}
    places: dict[int, str] = {}
    for table in chosen.all:
        places[table.relid] = table.quoted
        places |= {leaf.relid: leaf.quoted for leaf in table.leaves}
    undone = (
        Repair(relid=relid, quoted=places[relid], before=after, after=before)  # type: ignore[arg-type]
        for relid, (before, after) in changed.items()
        if relid in places and before != "i"
    )
    return tuple(repair.statement for repair in undone)


def _offered(facts: SourceFacts, options: AttachOptions, installed: Installed) -> tuple[Step, ...]:
    """Return the steps of what is offered besides, as far as it is wanted and may be made."""
    may = installed.schema_writable if installed.schema is not None else facts.may_create
    may_trigger = may and facts.may_trigger
    steps: list[Step] = []
    if may if options.reasons is None else options.reasons:
        steps += [BECAUSE_STEP]
    if may_trigger if options.ddl_trigger is None else options.ddl_trigger:
        steps += [DDL_STEP, *TRIGGER_STEPS]
    return (SCHEMA_STEP, *steps) if steps else ()
