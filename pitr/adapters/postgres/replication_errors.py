"""What a source says when it refuses replication, and which family of errors that is.

Source: PostgreSQL manual, appendix A, and the messages of ``slot.c``, ``walsender.c``,
``logical.c`` and ``auth.c``. Only a refused connection is known by its English text: libpq keeps
the SQLSTATE of that to itself, so a server that speaks otherwise seems to be away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg.pq import DiagnosticField
from psycopg.pq.abc import PGresult

from pitr.domain.errors import Conflict, InvalidRequest, PitrError, Unavailable
from pitr.domain.pgoutput.lost import SlotLost

WAL_LEVEL_HINT: Final = (
    "ALTER SYSTEM SET wal_level = 'logical' and restart the server"
    " (Amazon RDS: rds.logical_replication = 1)"
)
NO_SLOT_HINT: Final = "attach the database again: what happened without the slot is a gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error in the server's words."""

    state: str
    message: str
    detail: str | None = None

    @classmethod
    def of(cls, result: PGresult) -> Said:
        """Read the fields of an error."""
        fields = (DiagnosticField.SQLSTATE, DiagnosticField.MESSAGE_PRIMARY)
        state, message = (text_of(result.error_field(field)) for field in fields)
        # What libpq itself has to say has no fields.
        said = message or text_of(result.error_message) or "nothing"
        detail = text_of(result.error_field(DiagnosticField.MESSAGE_DETAIL))
        return cls(state=state or "", message=said.strip(), detail=detail)

    @property
    def facts(self) -> dict[str, object]:
        """What to show of it."""
        facts: dict[str, object] = {"reason": self.message}
        if self.detail:
            facts["detail"] = self.detail
        if self.state:
            facts["sqlstate"] = self.state
        return facts


def text_of(value: bytes | None) -> str | None:
    """Read a text of the server."""
    return None if value is None else value.decode("utf-8", "replace")


# Commands and the stream ------------------------------------------------------------------------

_Family = tuple[type[PitrError], str, str | None]

_PUBLICATION: Final[_Family] = (
    InvalidRequest,
    "the source cannot send what the publication asks for",
    "the publication must exist since before the slot: attach the database again",
)
_STATES: Final[Mapping[str, _Family]] = {
    "42710": (
        Conflict,
        "there is a replication slot of that name",
        "give another name, or drop it: SELECT pg_drop_replication_slot('…')",
    ),
    "53400": (
        InvalidRequest,
        "all replication slots of the source are in use",
        "raise max_replication_slots and restart the server, or drop a slot that nobody uses",
    ),
    "42501": (
        InvalidRequest,
        "the role may not replicate",
        "ALTER ROLE … REPLICATION (Amazon RDS: GRANT rds_replication TO …)",
    ),
    "08": (Unavailable, "the connection to the source broke", None),
    "40": (Unavailable, "the source ended the transaction", None),
    "53": (Unavailable, "the source is out of resources", None),
    "57": (Unavailable, "the source ended the stream", None),
    "58": (Unavailable, "the source has trouble with its system", None),
    "XX": (Unavailable, "the source has trouble with itself", None),
}


def refused(said: Said, *, slot: str, streaming: bool = False) -> PitrError:
    """Which error of ours it is; ``streaming`` when it came in the middle of the stream."""
    if said.state == "55006":
        return _in_use(said, slot)
    if said.state == "42704" and not streaming:
        return lost("the source has no such replication slot", said, slot)
    if said.state == "58P01" and "WAL" in said.message:
        return lost("the source has removed WAL that the slot needs", said, slot)
    if said.state == "42704":
        family, message, hint = _PUBLICATION
    else:
        other = (InvalidRequest, "the source refuses", None)
        family, message, hint = _STATES.get(said.state) or _STATES.get(said.state[:2]) or other
    return family(message, hint=hint, slot=slot, **said.facts)


def unfit(said: Said, *, slot: str, wal_level: str, row: Mapping[str, Any] | None) -> PitrError:
    """Which error of ours a state "not ready for that" (55000) is, from what the server has.

    ``row`` is the slot's row of ``pg_replication_slots``.
    """
    if row is not None and any(
        (row.get("wal_status") == "lost", row.get("conflicting"), row.get("invalidation_reason"))
    ):
        return lost("the source has given up the replication slot", said, slot)
    if wal_level != "logical":
        return InvalidRequest(
            "the source does not write what capture needs into its WAL",
            hint=WAL_LEVEL_HINT,
            wal_level=wal_level,
            **said.facts,
        )
    hint = "give another name for the slot, or drop the one that has it"
    return InvalidRequest("the slot is not one for this", hint=hint, slot=slot, **said.facts)


def lost(message: str, said: Said, slot: str) -> SlotLost:
    """The slot is lost, with what the server said about that."""
    return SlotLost(message, hint=NO_SLOT_HINT, slot=slot, **said.facts)


def _in_use(said: Said, slot: str) -> Unavailable:
    found = re.search(r"PID (\d+)", said.message)
    pid = int(found[1]) if found else None
    hint = "stop the other consumer; one that died is let go of after wal_sender_timeout"
    if pid is not None:
        hint += f", or at once: SELECT pg_terminate_backend({pid})"
    return Unavailable(
        "another consumer has the replication slot", hint=hint, slot=slot, pid=pid, **said.facts
    )


# Connections ------------------------------------------------------------------------------------

_REFUSALS: Final[tuple[tuple[str, _Family], ...]] = (
    (
        r"start WAL sender|replication role to start walsender",
        (InvalidRequest, "the role may not replicate", _STATES["42501"][2]),
    ),
    (
        r"does not support SSL|SSL error|certificate verify failed|root certificate",
        (InvalidRequest, "the source's TLS is not what the URL asks for", "check its sslmode"),
    ),
    (
        r"authentication failed|no password supplied|role \".*\" does not exist"
        r"|not permitted to log in|valid client certificate",
        (InvalidRequest, "the source refuses this user", "check user and password in the URL"),
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        (InvalidRequest, "the source refuses us", "let pitr in: pg_hba.conf of the server"),
    ),
    (
        r"database \".*\" does not exist|permission denied for database|not currently accepting",
        (InvalidRequest, "the source has no such database for us", "check the URL's database"),
    ),
    (
        r"unsupported startup parameter|replication connections? (?:is|are) not",
        (
            InvalidRequest,
            "what answers carries no replication",
            "name the server itself: a pooler such as PgBouncer in between may not do",
        ),
    ),
    (
        r"unrecognized configuration parameter|invalid value for parameter",
        (InvalidRequest, "the source refuses the URL's options", "check the URL's options"),
    ),
    (
        r"max_wal_senders",
        (
            Unavailable,
            "the source has no room for another replication connection",
            "raise max_wal_senders and restart the server, or stop another consumer",
        ),
    ),
)


def not_connected(text: str) -> PitrError:
    """Which error of ours a connection is that did not come about."""
    reason = " ".join(text.split())
    for pattern, (family, message, hint) in _REFUSALS:
        if re.search(pattern, reason):
            return family(message, hint=hint, reason=reason)
    return Unavailable("the source does not answer", reason=reason)
