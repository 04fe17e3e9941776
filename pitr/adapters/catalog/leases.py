"""Leases: operations keep each other off a place, and retention off what they read.

Times are the clock of the catalog's database, never that of a caller: several machines share a
catalog, and one clock has to judge whether a lease has run out. What a lease reads is told by the
version of the manifest, not by a time: no clock takes part in that at all.
"""

from __future__ import annotations

from typing import Any, Final

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import locked_log
from pitr.domain.errors import Conflict
from pitr.domain.lease import Lease
from pitr.domain.log import LogState
from pitr.domain.manifest import ObjectRef

NOW_US: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The present by the database's own clock, µs."""

_COLUMNS: Final = """
l.operation_id, g.name AS log, l.kind, l.actor, l.holder, l.sink, l.manifest_version, l.taken_us,
l.until_us
"""
_ATTEMPTS: Final = 5
"""How often a place is tried for that others take and let go of at the same time."""


class Leases(Connected):
    """The part of the catalog that keeps leases."""

    _EXPIRED_VERSION = "SELECT expired_version FROM pitr.logs WHERE log_id = $1"
    _LOCK_LOG = "SELECT FROM pitr.logs WHERE log_id = $1 FOR NO KEY UPDATE"

    _RENEW_LEASE = f"""
    UPDATE pitr.leases l SET until_us = {NOW_US} + $3 FROM pitr.logs g
    WHERE g.log_id = l.log_id AND l.operation_id = $1 AND l.holder = $2 RETURNING {_COLUMNS}
    """
    _FORGET_LAPSED = f"""
    DELETE FROM pitr.leases WHERE operation_id IN (
        SELECT operation_id FROM pitr.leases WHERE until_us <= {NOW_US} FOR UPDATE SKIP LOCKED)
    """
    _TAKE_LEASE = f"""
    INSERT INTO pitr.leases (operation_id, log_id, kind, actor, holder, sink, manifest_version,
        taken_us, until_us)
    SELECT $1, $2, $3, $4, $5, $6, $7, now_us, now_us + $8 FROM (SELECT {NOW_US} AS now_us) AS n
    ON CONFLICT DO NOTHING RETURNING operation_id
    """
    _STANDING = f"""
    SELECT {_COLUMNS} FROM pitr.leases l JOIN pitr.logs g USING (log_id)
    WHERE l.operation_id = $1 OR md5(l.sink) = md5($2::text)
    """

    async def take_lease(
        self,
        state: LogState,
        *,
        operation_id: str,
        kind: str,
        actor: str | None,
        holder: str,
        sink: str | None,
        length_us: int,
    ) -> Lease:
        """Take a lease on what a view of ``state`` holds and on a place, or renew it.

        A lease that has run out comes to life again as long as nothing came of that. Returns the
        lease that stands then: another operation's, if that writes to the place.

        Raises:
            Conflict: Objects that the view holds have been expired.
        """
        async with self._transaction() as connection:
            # Under the log's lock, as `expirable_objects` is: either it sees this lease, or this
            # sees what it condemned.
            await connection.execute(self._LOCK_LOG, state.log_id)
            expired = await connection.fetchval(self._EXPIRED_VERSION, state.log_id)
            if expired is not None and expired > state.manifest_version:
                raise Conflict(
                    "what is to be read was replaced since, and has been expired",
                    hint="try again: it will read what there is instead; PITR_RETIRED_KEPT_S says"
                    " how long replaced objects are kept",
                    log=state.name,
                    manifest_version=state.manifest_version,
                    expired_version=expired,
                )
            renewed = await connection.fetchrow(self._RENEW_LEASE, operation_id, holder, length_us)
            if renewed is not None:
                return Lease(**dict(renewed))
            for _ in range(_ATTEMPTS):
                await connection.execute(self._FORGET_LAPSED)
                await connection.fetchval(
                    self._TAKE_LEASE,
                    *(operation_id, state.log_id, kind, actor, holder, sink),
                    *(state.manifest_version, length_us),
                )
                standing = await connection.fetchrow(self._STANDING, operation_id, sink)
                if standing is not None:
                    return Lease(**dict(standing))
        raise Conflict("the place is taken and let go of by others all the time", sink=sink)

    _RELEASE_LEASE = "DELETE FROM pitr.leases WHERE operation_id = $1 AND holder = $2"

    async def release_lease(self, operation_id: str, holder: str) -> None:
        """Let go of a lease; one that has run out already is no error."""
        async with self._connection() as connection:
            await connection.execute(self._RELEASE_LEASE, operation_id, holder)

    _LEASES = f"""
    SELECT {_COLUMNS} FROM pitr.leases l JOIN pitr.logs g USING (log_id)
    WHERE g.name = $1 AND l.until_us > {NOW_US} ORDER BY l.taken_us, l.operation_id
    """

    async def leases(self, log: str) -> list[Lease]:
        """Return the leases of a log that have not run out, oldest first."""
        async with self._connection() as connection:
            return [Lease(**dict(row)) for row in await connection.fetch(self._LEASES, log)]

    _READ_FROM = f"""
    SELECT min(manifest_version) FROM pitr.leases WHERE log_id = $1 AND until_us > {NOW_US}
    """
    _EXPIRABLE = """
    SELECT ref, retired_version FROM pitr.objects
    WHERE log_id = $1 AND retired_us < $2 AND ($3::bigint IS NULL OR retired_version <= $3)
    ORDER BY seq_first, name
    """
    _CONDEMN = """
    UPDATE pitr.logs SET expired_version = greatest(expired_version, $2) WHERE log_id = $1
    """

    async def expirable_objects(self, log: str, *, before_us: int) -> list[ObjectRef]:
        """Choose the objects retired before ``before_us`` that nobody reads any more, for good.

        An object that the manifest's entry ``v`` retired is in views of versions below ``v``, and
        in no other. So it is chosen only if no live lease is of a version below ``v``; and from
        then on no lease is given, or renewed, for such a version. Both are decided under the log's
        lock, in the transaction that chooses: there is no moment between the decision and the
        deletion at which a reader of the object could come in.

        Raises:
            NotFound: There is no such log.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            read_from = await connection.fetchval(self._READ_FROM, state.log_id)
            found: list[Any] = await connection.fetch(
                self._EXPIRABLE, state.log_id, before_us, read_from
            )
            if found:
                # One whose version is not known may be in any view but the newest.
                versions = [row["retired_version"] or state.manifest_version for row in found]
                await connection.execute(self._CONDEMN, state.log_id, max(versions))
        return [rows.object_ref(row["ref"]) for row in found]
