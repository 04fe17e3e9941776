"""A source database as pitr looks at it: the server, its tables, a slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pitr.domain.pgoutput.schema import Identity, TableSchema
from pitr.domain.pgoutput.sql import qualified

OWN_SCHEMA: Final = "pitr"
"""Where pitr puts functions in a source; never captured."""

SWAP_MARK: Final = "made by pitr restore --mode swap"
"""What the comments of schemas begin with in which swaps make and keep tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What matters of a server, a database and the role that asks.

    ``version`` is PostgreSQL's number, 180006 for 18.6. ``system_id`` and ``timeline`` are None
    where the role may not read them. ``max_slot_wal_keep_bytes`` is None if there is no limit,
    ``idle_slot_timeout_s`` if slots may stay idle. ``may_trigger`` says whether the role may make
    event triggers, ``may_create`` whether schemas and publications in this database.
    """

    version: int
    version_text: str
    system_id: int | None
    timeline: int | None
    database: str
    encoding: str
    role: str
    is_superuser: bool
    may_replicate: bool
    may_trigger: bool
    may_create: bool
    in_recovery: bool
    wal_level: str
    slots_max: int
    slots_used: int
    senders_max: int
    senders_used: int
    max_slot_wal_keep_bytes: int | None = None
    idle_slot_timeout_s: int | None = None

    @property
    def major(self) -> int:
        """18 of 18.6."""
        return self.version // 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A replication slot, and how far behind the end of the WAL it is.

    ``retained_bytes`` is the WAL that the server keeps for it, ``behind_bytes`` what it has not
    confirmed; ``safe_wal_bytes`` may still be written before the slot may be lost, None for no
    limit. ``wal_status`` is ``lost`` when it was lost; ``invalidation_reason`` says why, from 17.
    """

    name: str
    plugin: str | None
    database: str | None
    temporary: bool
    two_phase: bool
    failover: bool
    active_pid: int | None
    active_application: str | None
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    wal_status: str | None
    safe_wal_bytes: int | None
    invalidation_reason: str | None
    current_lsn: int

    @property
    def is_active(self) -> bool:
        """Whether a walsender uses it."""
        return self.active_pid is not None

    @property
    def is_lost(self) -> bool:
        """Whether it can never be read again; what was not confirmed is a gap."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def retained_bytes(self) -> int | None:
        """WAL on the server's disk because of it."""
        return None if self.restart_lsn is None else max(0, self.current_lsn - self.restart_lsn)

    @property
    def behind_bytes(self) -> int | None:
        """WAL that was written since what it confirmed."""
        confirmed = self.confirmed_flush_lsn
        return None if confirmed is None else max(0, self.current_lsn - confirmed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceValue:
    """What a sequence stands at; None where the role may not read it."""

    schema: str
    name: str
    relid: int
    last_value: int | None
    is_called: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemas:
    """Documents of tables, as of one snapshot; by relid.

    ``lsn`` is the end of the WAL right after the snapshot was taken; ``snapshot`` is the
    snapshot, as ``pg_current_snapshot`` writes it.
    """

    lsn: int
    snapshot: str
    tables: Mapping[int, TableSchema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A partition that has rows of its own. PostgreSQL looks at *its* replica identity."""

    relid: int
    schema: str
    name: str
    is_foreign: bool
    logged: bool
    identity: Identity
    identity_columns: tuple[str, ...]

    @property
    def quoted(self) -> str:
        """As it stands in SQL."""
        return qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A table that may be captured: an ordinary one, or the root of partitions.

    ``identity_columns`` are what its replica identity names: the primary key's or the index's
    columns; none with ``f`` and ``n``, nor where there is no such key or index. A deferrable
    primary key is none, it may be double for a while: ``key_columns`` are empty then too.
    ``columns`` are those that are not generated; ``stored`` and ``virtual`` those that are,
    ``unreadable`` those that the role may not select. ``row_security`` says that policies hide
    rows from the role; ``owned`` that it may publish the table.
    """

    relid: int
    schema: str
    name: str
    kind: Literal["table", "partitioned"]
    logged: bool
    owned: bool
    identity: Identity
    identity_columns: tuple[str, ...]
    key_columns: tuple[str, ...]
    columns: tuple[str, ...]
    deferrable_key: bool = False
    stored: tuple[str, ...] = ()
    virtual: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    schema_usable: bool = True
    has_policies: bool = False
    row_security: bool = False
    rows_estimate: int = 0
    size_bytes: int = 0
    leaves: tuple[Leaf, ...] = ()

    @property
    def collection(self) -> str:
        """The collection of its rows, which is also how a ``Selection`` names it."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """As it stands in SQL."""
        return qualified(self.schema, self.name)
