"""Marks, quarantine, operations, idempotency: the small records beside a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import locked_log
from pitr.adapters.catalog.leases import NOW_US
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.log import LogState, Mark, QuarantineItem


class Records(Connected):
    """The part of the catalog that keeps small records."""

    _PUT_MARK = """
    INSERT INTO pitr.marks (log_id, name, seq_end, at_us, created_us, actor, reason)
    VALUES ($1, $2, coalesce($3::bigint, $8::bigint), $4, $5, $6, $7) ON CONFLICT DO NOTHING
    RETURNING name, seq_end, at_us, created_us, actor, reason
    """

    async def put_mark(
        self,
        log: str,
        name: str,
        *,
        seq_end: int | None,
        at_us: int | None,
        created_us: int,
        actor: str | None,
        reason: str | None,
    ) -> Mark:
        """Name a moment: the changes below ``seq_end``, by default all there are now.

        Raises:
            Conflict: The name is taken.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            row = await connection.fetchrow(
                self._PUT_MARK,
                *(state.log_id, name, seq_end, at_us, created_us, actor, reason, state.seq_next),
            )
        if row is None:
            raise Conflict("the mark exists", hint=f"pitr mark --delete {name}", name=name)
        return rows.mark(row)

    _MARKS = """
    SELECT m.name, seq_end, at_us, m.created_us, actor, reason
    FROM pitr.marks m JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 AND ($2::text IS NULL OR m.name = $2) ORDER BY m.created_us, m.name
    """

    async def marks(self, log: str) -> list[Mark]:
        """Return the log's marks, oldest first."""
        async with self._connection() as connection:
            return [rows.mark(row) for row in await connection.fetch(self._MARKS, log, None)]

    async def mark(self, log: str, name: str) -> Mark:
        """Return one mark.

        Raises:
            NotFound: There is none of that name.
        """
        async with self._connection() as connection:
            row = await connection.fetchrow(self._MARKS, log, name)
        if row is None:
            raise NotFound("there is no such mark", hint="pitr mark lists them", name=name)
        return rows.mark(row)

    _DELETE_MARK = """
    DELETE FROM pitr.marks m USING pitr.logs l
    WHERE l.log_id = m.log_id AND l.name = $1 AND m.name = $2
    """

    async def delete_mark(self, log: str, name: str) -> None:
        """Forget a mark.

        Raises:
            NotFound: There is none of that name.
        """
        async with self._connection() as connection:
            done = await connection.execute(self._DELETE_MARK, log, name)
        if done != "DELETE 1":
            raise NotFound("there is no such mark", hint="pitr mark lists them", name=name)

    _QUARANTINE = """
    SELECT quarantine_id, lane, position, body, format, code, q.reason, recorded_us, status,
           q.meta
    FROM pitr.quarantine q JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 AND ($2::text IS NULL OR status = $2) AND quarantine_id >= $3
    ORDER BY quarantine_id LIMIT $4
    """

    async def quarantine(
        self, log: str, *, status: str | None = "waiting", id_first: int = 0, limit: int = 100
    ) -> list[QuarantineItem]:
        """Return inputs in quarantine, oldest first; ``status`` None returns the resolved too."""
        async with self._connection() as connection:
            found = await connection.fetch(self._QUARANTINE, log, status, id_first, limit)
        return [rows.quarantine_item(row) for row in found]

    _QUARANTINE_COUNTS = """
    SELECT status, count(*) AS count FROM pitr.quarantine q JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 GROUP BY status
    """

    async def quarantine_counts(self, log: str) -> dict[str, int]:
        """Return how many inputs are in quarantine, by status."""
        async with self._connection() as connection:
            found = await connection.fetch(self._QUARANTINE_COUNTS, log)
        counts = {"waiting": 0, "replayed": 0, "dismissed": 0}
        return counts | {row["status"]: row["count"] for row in found}

    _DISMISS = """
    UPDATE pitr.quarantine q SET status = 'dismissed', resolved_us = $3
    FROM pitr.logs l
    WHERE l.log_id = q.log_id AND l.name = $1 AND quarantine_id = $2 AND status = 'waiting'
    """

    async def dismiss(self, log: str, quarantine_id: int, *, resolved_us: int) -> None:
        """Set an input aside for good; its bytes stay.

        Raises:
            NotFound: It does not wait.
        """
        async with self._connection() as connection:
            done = await connection.execute(self._DISMISS, log, quarantine_id, resolved_us)
        if done != "UPDATE 1":
            raise NotFound("no such input waits in quarantine", quarantine_id=quarantine_id)

    _BEGIN = """
    INSERT INTO pitr.operations (operation_id, log_id, kind, actor, reason, started_us, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    """

    async def begin_operation(
        self,
        state: LogState,
        *,
        operation_id: str,
        kind: str,
        actor: str | None,
        reason: str | None,
        started_us: int,
        detail: Mapping[str, Any],
    ) -> None:
        """Record that an operation starts: what, by whom, why."""
        async with self._connection() as connection:
            await connection.execute(
                self._BEGIN,
                *(operation_id, state.log_id, kind, actor, reason, started_us, dict(detail)),
            )

    _END = """
    UPDATE pitr.operations SET outcome = $2, ended_us = $3, detail = detail || $4
    WHERE operation_id = $1
    """

    async def end_operation(
        self, operation_id: str, *, outcome: str, ended_us: int, detail: Mapping[str, Any]
    ) -> None:
        """Record how an operation ended: ``done`` or ``failed``."""
        async with self._connection() as connection:
            await connection.execute(self._END, operation_id, outcome, ended_us, dict(detail))

    _NOTE = "UPDATE pitr.operations SET detail = detail || $2 WHERE operation_id = $1"

    async def note_operation(self, operation_id: str, detail: Mapping[str, Any]) -> None:
        """Add to what is known of an operation while it runs."""
        async with self._connection() as connection:
            await connection.execute(self._NOTE, operation_id, dict(detail))

    _OPERATIONS = f"""
    SELECT o.operation_id, o.kind, o.actor, o.reason,
           CASE WHEN outcome = 'running' AND h.operation_id IS NULL THEN 'lost' ELSE outcome END
               AS outcome,
           started_us, ended_us, detail, h.holder
    FROM pitr.operations o JOIN pitr.logs l USING (log_id)
    LEFT JOIN pitr.leases h ON h.operation_id = o.operation_id AND h.until_us > {NOW_US}
    WHERE l.name = $1 ORDER BY started_us DESC LIMIT $2
    """

    async def operations(self, log: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest operations, newest first.

        One that runs holds a lease from before its begin until after its end; where there is none
        any more, its process was killed or cut off, and the operation is ``lost``. ``holder`` is
        the process of one that runs.
        """
        async with self._connection() as connection:
            return [dict(row) for row in await connection.fetch(self._OPERATIONS, log, limit)]

    _FORGET_ANSWERS = "DELETE FROM pitr.idempotency WHERE recorded_us < $1"

    async def forget_answers(self, *, before_us: int) -> int:
        """Forget the answers to idempotent requests recorded before ``before_us``; count them."""
        async with self._connection() as connection:
            done: str = await connection.execute(self._FORGET_ANSWERS, before_us)
        return int(done.split()[1])
