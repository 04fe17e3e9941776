"""One rewind under way in a transaction: what it finds, what it does, and what it checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import asyncpg
import orjson

from pitr.adapters.sinks.postgres.connection import shown
from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey, foreign_keys
from pitr.adapters.sinks.postgres.lasting import lasting_xid
from pitr.adapters.sinks.postgres.rewind.checks import check_deferrable, check_foreign_keys
from pitr.adapters.sinks.postgres.rewind.references import Broken
from pitr.adapters.sinks.postgres.rewind.scan import ScanStage
from pitr.adapters.sinks.postgres.rewind.stage import WANTED, Compared, Stage
from pitr.adapters.sinks.postgres.rewind.tables import (
    DescribedTable,
    RewindTable,
    check_rules,
    described_tables,
    rewind_tables,
)
from pitr.adapters.sinks.postgres.rewind.writing import Writing, in_order
from pitr.adapters.sinks.postgres.sequences import move_sequences, sequences_of
from pitr.adapters.sinks.postgres.tables import quoted
from pitr.adapters.sinks.postgres.triggers import Triggers
from pitr.domain.errors import Conflict
from pitr.domain.pgoutput.reasons import REASON_PREFIX
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import ColumnRules, Schemas, Work
from pitr.domain.rewind.ports import Committing, Rewound, Says
from pitr.domain.rewind.sight import (
    CONFLICTS_MAX,
    CONFLICTS_SHOWN,
    OnConflict,
    Place,
    RowConflict,
    SequenceSight,
    Sight,
    TableSight,
)

_PLACE: Final = """
SELECT datname::text, oid::bigint, has_function_privilege('pg_control_system()', 'EXECUTE')
FROM pg_database WHERE datname = current_database()
"""
_SYSTEM: Final = "SELECT system_identifier::text FROM pg_control_system()"
_SAYS: Final = "SELECT pg_logical_emit_message(true, $1, $2::text)"


@dataclass(kw_only=True)
class Ground:
    """Where rewinds of some collections happen: the database, its tables, and what rests there."""

    place: Place
    tables: Mapping[str, DescribedTable]
    keys: tuple[ForeignKey, ...]
    sequences: Sequence[asyncpg.Record]
    triggers: Triggers = field(default_factory=Triggers)
    xid: str | None = None

    @classmethod
    async def described(
        cls, connection: asyncpg.Connection, url: str, tables: Mapping[str, Schemas]
    ) -> Ground:
        """Describe it.

        Raises:
            InvalidRequest: A collection cannot be a table; or one is a view, or the like.
        """
        described = await described_tables(connection, tables)
        oids = [oid for table in described.values() for oid in table.oids]
        return cls(
            place=await place_of(connection, url),
            tables=described,
            keys=await foreign_keys(connection, oids),
            sequences=await sequences_of(
                connection, [table.oids[0] for table in described.values()]
            ),
        )

    async def quieten(self, connection: asyncpg.Connection) -> None:
        """Keep triggers from firing; refuse rules, which cannot be kept from it."""
        oids = [oid for table in self.tables.values() for oid in table.oids]
        await self.triggers.silence(connection, oids)
        await check_rules(connection, oids, replica=self.triggers.replica)


@dataclass(kw_only=True)
class RewindWork:
    """One rewind under way, inside its transaction.

    ``keys`` are the foreign keys that start or end at one of its tables. ``compared`` is what is
    to be done with the rows of each table, by its number.
    """

    connection: asyncpg.Connection
    url: str
    ground: Ground
    rules: ColumnRules
    tables: list[RewindTable]
    keys: tuple[ForeignKey, ...]
    compared: dict[int, Compared] = field(default_factory=dict)

    @classmethod
    def on(
        cls,
        ground: Ground,
        connection: asyncpg.Connection,
        url: str,
        works: Sequence[Work],
        rules: ColumnRules,
    ) -> RewindWork:
        """Make what is to be done of where it happens.

        Raises:
            InvalidRequest: A table is not there, has no such key, or its columns do not fit.
        """
        tables = rewind_tables(ground.tables, works, rules)
        oids = {oid for table in tables for oid in table.oids}
        keys = tuple(key for key in ground.keys if {key.child_oid, key.parent_oid} & oids)
        return cls(
            connection=connection,
            url=url,
            ground=ground,
            rules=rules,
            tables=in_order(tables, keys),
            keys=keys,
        )

    @property
    def stages(self) -> list[Stage]:
        """The temporary tables of each table."""
        return [
            (Stage if table.work.scanned is None else ScanStage)(self.connection, table)
            for table in self.tables
        ]

    @property
    def scans(self) -> list[ScanStage]:
        """Those of tables that are compared as a whole."""
        return [stage for stage in self.stages if isinstance(stage, ScanStage)]

    def sight(self) -> Sight:
        """What is seen before any row is looked at."""
        return Sight(
            place=self.ground.place,
            tables=tuple(
                TableSight(
                    collection=table.collection, table=str(table.name), columns=table.columns
                )
                for table in self.tables
            ),
        )

    async def scanned(self) -> Sight:
        """What is seen once tables were compared as a whole."""
        found = {stage.table.collection: await stage.sight() for stage in self.scans}
        sight = self.sight()
        tables = [replace(each, scan=found.get(each.collection)) for each in sight.tables]
        return replace(sight, tables=tuple(tables))

    async def keep_found(self, folder: Path) -> dict[str, Path]:
        """Write down what was there before, of tables that were compared as a whole."""
        return {stage.table.collection: await stage.keep_found(folder) for stage in self.scans}

    async def stage(self) -> None:
        """Load the rows, and compare them with those there are."""
        for stage in self.stages:
            await stage.load(drop_gone=self.rules.gone == "drop")
            self.compared[stage.table.number] = await stage.compare()

    async def done(
        self, on_conflict: OnConflict, says: Says, committing: Committing, folder: Path | None
    ) -> tuple[str, Rewound]:
        """Write what was staged; return the transaction's id, and what it is about to commit."""
        conflicts = await self.settle(on_conflict)
        await self.say(says)
        done = replace(await self.run(), conflicts=tuple(conflicts))
        if folder is not None:
            done = replace(done, found=await self.keep_found(folder))
        xid = self.ground.xid or await lasting_xid(self.connection, self.url)
        await committing(xid, done)
        return xid, done

    async def seen(self, known: Mapping[str, TableSchema | None], references_max: int) -> Sight:
        """What a plan shows; ``known`` are the collections of the log."""
        sequences: list[SequenceSight] = []
        for table in self.tables:
            own = [each for each in self.ground.sequences if each["table"] == table.oids[0]]
            sequences += await _moving(self.connection, table, own)
        sight = replace(
            await self.scanned(),
            conflicts=tuple(await self._conflicts(CONFLICTS_SHOWN)),
            conflict_counts=self._counts(lambda each: each.conflicts),
            settled=self._counts(lambda each: each.settled),
            sequences=tuple(sequences),
        )
        broken = Broken(self.connection, self.tables, self.keys, references_max)
        return await broken.added_to(sight, known)

    def _counts(self, count: Callable[[Compared], int]) -> dict[str, int]:
        """Count something by collection, where there is any of it."""
        counts = {each.collection: count(self.compared[each.number]) for each in self.tables}
        return {name: found for name, found in counts.items() if found}

    async def _conflicts(self, limit: int, *, with_live: bool = False) -> list[RowConflict]:
        """The first rows of each table that are not what the log says."""
        found: list[RowConflict] = []
        for stage in self.stages:
            if self.compared[stage.table.number].conflicts:
                found += await stage.conflicts(limit, with_live=with_live)
        return found

    async def settle(self, on_conflict: OnConflict) -> list[RowConflict]:
        """Deal with rows that are not what the log says; return them.

        Raises:
            Conflict: There are some, and they are to be refused; or too many.
        """
        total = sum(each.conflicts for each in self.compared.values())
        if not total:
            return []
        limit = CONFLICTS_SHOWN if on_conflict == "refuse" else CONFLICTS_MAX
        found = await self._conflicts(limit, with_live=on_conflict == "overwrite")
        if on_conflict == "refuse" or total > CONFLICTS_MAX:
            message = (
                "rows are not what the log says they are"
                if on_conflict == "refuse"
                else "too many rows are not what the log says they are"
            )
            raise Conflict(
                message,
                hint="wait until the log has caught up, or say --on-conflict overwrite or skip",
                conflicts=total,
                examples=[_named(each) for each in found[:CONFLICTS_SHOWN]],
            )
        if on_conflict == "skip":
            for stage in self.stages:
                self.compared[stage.table.number] = await stage.skip_conflicts()
        return found

    async def say(self, says: Says) -> None:
        """Tell whoever captures the database whose changes these are."""
        content = {"reason": says.reason, "actor": says.actor}
        body = orjson.dumps({name: text for name, text in content.items() if text is not None})
        await self.connection.execute(_SAYS, REASON_PREFIX, body.decode())

    async def run(self) -> Rewound:
        """Write, and check what was written; sequences go last, as they do not move back."""
        writing = Writing(
            connection=self.connection,
            tables=self.tables,
            keys=self.keys,
            counts={number: each.actions for number, each in self.compared.items()},
            replica=self.ground.triggers.replica,
        )
        await writing.run()
        notes = await self._check()
        await self.ground.triggers.restore(self.connection)
        await move_sequences(
            self.connection,
            [replace(each.now, name=each.temporary(WANTED)) for each in self.tables],
            known=self.ground.sequences,
        )
        settled_rows: list[tuple[str, str]] = []
        for stage in self.stages:
            if self.compared[stage.table.number].settled:
                settled_rows += await stage.settled_rows(CONFLICTS_MAX)
        return Rewound(
            written={each.collection: self.compared[each.number].written for each in self.tables},
            settled=self._counts(lambda each: each.settled),
            settled_rows=tuple(settled_rows),
            notes=tuple(notes),
        )

    async def _check(self) -> list[str]:
        """Check what rested together with the triggers."""
        if not self.ground.triggers.replica:
            await self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return []
        notes = await check_foreign_keys(self.connection, self.tables, self.keys)
        return notes + await check_deferrable(self.connection, self.tables)


async def place_of(connection: asyncpg.Connection, url: str) -> Place:
    """Tell which database it is."""
    database, oid, may_ask = await connection.fetchrow(_PLACE)
    system = await connection.fetchval(_SYSTEM) if may_ask else None
    return Place(url=shown(url), system=system, database=database, database_oid=oid)


async def _moving(
    connection: asyncpg.Connection, table: RewindTable, sequences: Iterable[asyncpg.Record]
) -> list[SequenceSight]:
    """Those of a table's sequences that a rewind would move, and to what."""
    found = []
    for row in sequences:
        furthest, past = ("max", ">") if row["ascends"] else ("min", "<")
        sequence = f"{quoted(row['schema'])}.{quoted(row['name'])}"
        column = quoted(row["column"])
        to = await connection.fetchval(
            f"SELECT reached.value FROM (SELECT {furthest}({column})::bigint AS value"
            f" FROM {table.temporary(WANTED).quoted}) AS reached, {sequence} AS now"
            f" WHERE reached.value {past} now.last_value"
            f" OR reached.value = now.last_value AND NOT now.is_called"
        )
        if to is not None:
            found.append(
                SequenceSight(
                    sequence=f"{row['schema']}.{row['name']}",
                    table=str(table.name),
                    column=row["column"],
                    to=to,
                )
            )
    return found


def _named(conflict: RowConflict) -> str:
    columns = f" ({', '.join(conflict.columns)})" if conflict.columns else ""
    return f"{conflict.collection} {conflict.key} {conflict.kind}{columns}"
