"""Reads what matters of a server, a role and a slot."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.source import SlotState, SourceFacts

# Managed services give these memberships in place of the attributes of a role.
_FACTS: Final = """
SELECT
    current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS version_text,
    current_database() AS database,
    getdatabaseencoding() AS encoding,
    current_user AS role,
    r.rolsuper AS is_superuser,
    r.rolsuper OR r.rolreplication OR coalesce(
        (SELECT pg_has_role(m.oid, 'MEMBER') FROM pg_roles m
         WHERE m.rolname = 'rds_replication'), false) AS may_replicate,
    r.rolsuper OR coalesce(
        (SELECT pg_has_role(m.oid, 'MEMBER') FROM pg_roles m
         WHERE m.rolname = 'rds_superuser'), false) AS may_trigger,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    pg_is_in_recovery() AS in_recovery,
    current_setting('wal_level') AS wal_level,
    current_setting('max_replication_slots')::int AS slots_max,
    (SELECT count(*)::int FROM pg_replication_slots) AS slots_used,
    current_setting('max_wal_senders')::int AS senders_max,
    (SELECT count(*)::int FROM pg_stat_get_wal_senders()) AS senders_used,
    (SELECT nullif(setting::bigint, -1) * 1024 * 1024 FROM pg_settings
     WHERE name = 'max_slot_wal_keep_size') AS max_slot_wal_keep_bytes,
    (SELECT nullif(setting::int, 0) FROM pg_settings
     WHERE name = 'idle_replication_slot_timeout') AS idle_slot_timeout_s
FROM pg_roles r
WHERE r.rolname = current_user
"""

_SYSTEM: Final = """
SELECT s.system_identifier, c.timeline_id FROM pg_control_system() s, pg_control_checkpoint() c
"""


async def read_facts(connection: Any) -> SourceFacts:
    """Read the facts; system and timeline are None where the role may not."""
    facts = dict(await connection.fetchrow(_FACTS))
    try:
        system = await connection.fetchrow(_SYSTEM)
    except asyncpg.InsufficientPrivilegeError:
        system = (None, None)
    return SourceFacts(**facts, system_id=system[0], timeline=system[1])


# Columns that an older server lacks are null this way.
_SLOT: Final = """
SELECT
    s.slot_name AS name, s.plugin, s.database, s.temporary, s.two_phase,
    coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover,
    s.active_pid,
    (SELECT a.application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid)
        AS active_application,
    s.restart_lsn::text AS restart_lsn, s.confirmed_flush_lsn::text AS confirmed_flush_lsn,
    s.wal_status, s.safe_wal_size AS safe_wal_bytes,
    to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
        AS current_lsn
FROM pg_replication_slots s
WHERE s.slot_name = $1
"""


async def read_slot(connection: Any, name: str) -> SlotState | None:
    """Read how a slot stands; None if there is none."""
    row = await connection.fetchrow(_SLOT, name)
    if row is None:
        return None
    fields = dict(row)
    for lsn in ("restart_lsn", "confirmed_flush_lsn", "current_lsn"):
        fields[lsn] = None if fields[lsn] is None else lsn_of(fields[lsn])
    return SlotState(**fields)
