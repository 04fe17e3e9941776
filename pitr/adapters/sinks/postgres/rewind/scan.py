"""A whole table against a whole state, compared where the table is.

The state is loaded into a temporary table, which the server spills to disk. Rows of which the table
says something else become what the rewind is about, as if the log had named them: ``expected`` is
what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.ipc as ipc

from pitr.adapters.sinks.postgres.rewind.stage import (
    ACTIONS,
    EXPECTED,
    LIVE,
    WANTED,
    Compared,
    Side,
    Stage,
    side_of,
)
from pitr.adapters.sinks.postgres.tables import quoted
from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.columnar.scanned import FOUND_SCHEMA
from pitr.domain.errors import Conflict
from pitr.domain.pgoutput.sql import literal
from pitr.domain.rewind.sight import UNKNOWN_SHOWN, ScanSight

STATE: Final = "state"
KNOWN: Final = "known"

FETCHED_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ScanStage(Stage):
    """The temporary tables of one table that is compared as a whole."""

    @property
    def _state(self) -> CollectionDifference:
        assert self.table.work.scanned is not None, "it is made for tables that are scanned"
        return self.table.work.scanned

    async def load(self, *, drop_gone: bool) -> None:
        """Load the state, and the keys that the log has now of rows that are not in it.

        Raises:
            InvalidRequest: A document does not fit the table.
        """
        table = self.table
        wanted = side_of(table.then, table.columns.written, fill=True)
        keys = side_of(table.now, [name for name, _ in table.key], fill=False)
        for suffix in (STATE, KNOWN, EXPECTED, WANTED):
            await self._make(suffix)
        for column in wanted.columns:
            default = table.facts[column.name].default
            if column.fills_itself and default is not None:
                await self._run(
                    f"ALTER TABLE {self._name(STATE)} ALTER COLUMN {quoted(column.name)}"
                    f" SET DEFAULT {default}"
                )
        await self._copy(
            Side(STATE, wanted, self._state.rows("then"), drop_unknown=drop_gone),
            Side(KNOWN, keys, table.work.difference.rows("now"), drop_unknown=True),
        )
        await self._analyze(STATE, KNOWN)

    async def compare(self) -> Compared:
        """Fill ``wanted``, ``live``, ``expected`` and ``actions`` with the rows that differ.

        Raises:
            Conflict: Two keys of the log are one row of the table.
        """
        table = self.table
        await self._check_states()
        await self._run(
            f"INSERT INTO {self._name(WANTED)} SELECT s.* FROM {self._name(STATE)} AS s"
            f" LEFT JOIN {table.target} AS t ON {table.same_key('t', 's')}"
            f" WHERE t.{quoted(table.key[0][0])} IS NULL"
            f" OR NOT ({table.same('t', 's', table.columns.written)})"
        )
        await self._run(f"ANALYZE {self._name(WANTED)}")
        live = ", ".join(f"t.{quoted(name)}" for name in table.facts)
        await self._run(
            f"CREATE TEMP TABLE {quoted(table.temporary(LIVE).table)} ON COMMIT DROP AS"
            f" SELECT w.{table.key_column}, {live} FROM {self._name(WANTED)} AS w"
            f" JOIN {table.target} AS t ON {table.same_key('t', 'w')}"
            f" UNION ALL SELECT coalesce(k.{table.key_column}, {self._written_key()}), {live}"
            f" FROM {table.target} AS t LEFT JOIN {self._name(KNOWN)} AS k"
            f" ON {table.same_key('t', 'k')} WHERE NOT EXISTS"
            f" (SELECT FROM {self._name(STATE)} AS s WHERE {table.same_key('t', 's')})"
        )
        columns = ", ".join([table.key_column, *map(quoted, table.plain)])
        await self._run(
            f"INSERT INTO {self._name(EXPECTED)} ({columns}) SELECT {columns} FROM"
            f" {self._name(LIVE)}"
        )
        for suffix in (LIVE, EXPECTED):
            await self._run(f"ANALYZE {self._name(suffix)}")
        return await self._decide()

    async def _check_states(self) -> None:
        key = self.table.key_column
        row = await self.connection.fetchrow(
            f"SELECT min(s.{key}) AS one, max(s.{key}) AS other FROM {self._name(STATE)} AS s"
            f" GROUP BY {', '.join(f's.{quoted(name)}::text' for name, _ in self.table.key)}"
            f" HAVING count(*) > 1 LIMIT 1"
        )
        if row is not None:
            raise Conflict(
                "two keys of the log are one row of the table",
                collection=self.table.collection,
                keys=[row["one"], row["other"]],
            )

    def _written_key(self) -> str:
        """A row's key as the log would write it; the log knows nothing of the row."""
        parts = [
            f"{literal(orjson.dumps(name).decode() + ':')} || to_json(t.{quoted(name)})::text"
            for name in sorted(self.table.work.key)
        ]
        return "'{' || " + " || ',' || ".join(parts) + " || '}'"

    async def sight(self) -> ScanSight:
        """What differs: how many rows, which of them the log does not know, and their digest."""
        key, joined = self.table.key_column, self._joined()
        counts = await self.connection.fetchrow(
            f"SELECT count(*) FILTER (WHERE l.{key} IS NULL) AS inserts,"
            f" count(*) FILTER (WHERE w.{key} IS NULL) AS deletes,"
            f" count(*) FILTER (WHERE l.{key} IS NOT NULL AND w.{key} IS NOT NULL) AS updates"
            f" FROM {joined}"
        )
        unknown = (
            f"FROM {joined} WHERE w.{key} IS NULL AND NOT EXISTS"
            f" (SELECT FROM {self._name(KNOWN)} AS k WHERE k.{key} = l.{key})"
        )
        rows = await self.connection.fetch(
            f'SELECT l.{key} AS key {unknown} ORDER BY l.{key} COLLATE "C" LIMIT {UNKNOWN_SHOWN}'
        )
        return ScanSight(
            inserts=counts["inserts"],
            updates=counts["updates"],
            deletes=counts["deletes"],
            unknown=await self.connection.fetchval(f"SELECT count(*) {unknown}"),
            unknown_keys=tuple(row["key"] for row in rows),
            sha256=await self.connection.fetchval(self._digest(joined)),
        )

    def _digest(self, joined: str) -> str:
        """A digest of rows that differ, in parts, so that no text of the server grows too long."""
        key = self.table.key_column
        row = f"ROW(coalesce(l.{key}, w.{key}), l::text, w::text)::text"
        hashed = "encode(sha256(convert_to({}, 'UTF8')), 'hex')"
        parts = hashed.format("string_agg(h, '' ORDER BY h)")
        whole = hashed.format("coalesce(string_agg(d, '' ORDER BY d), '')")
        return (
            f"SELECT {whole} FROM (SELECT {parts} AS d FROM"
            f" (SELECT {hashed.format(row)} AS h FROM {joined}) AS r GROUP BY left(h, 3)) AS p"
        )

    async def keep_found(self, folder: Path) -> Path:
        """Write down the rows that were written, as they were before, in key order."""
        table, key = self.table, self.table.key_column
        columns = ", ".join(f"l.{quoted(name)}" for name in table.plain)
        path = folder / f"found-{table.number}.arrow"
        options = ipc.IpcWriteOptions(compression="lz4")
        with ipc.new_file(str(path), FOUND_SCHEMA, options=options) as writer:
            cursor = await self.connection.cursor(
                f"SELECT a.{key} AS key, CASE WHEN l.{key} IS NOT NULL THEN"
                f" row_to_json((SELECT r FROM (SELECT {columns}) AS r))::text END AS live"
                f" FROM {self._name(ACTIONS)} AS a LEFT JOIN {self._name(LIVE)} AS l"
                f' ON l.{key} = a.{key} WHERE a.action IS NOT NULL ORDER BY a.{key} COLLATE "C"'
            )
            while rows := await cursor.fetch(FETCHED_ROWS):
                arrays = [
                    pa.array([row[name] for row in rows], pa.string()) for name in ("key", "live")
                ]
                writer.write_batch(pa.record_batch(arrays, schema=FOUND_SCHEMA))
        return path
