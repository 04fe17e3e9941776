"""Messages of the stream, one at a time, as PostgreSQL writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pitr.domain.pgoutput.messages import (
    BadMessage,
    Commit,
    LogicalMessage,
    RawColumn,
    RawRelation,
    RawType,
    Truncate,
    begin_of,
    commit_of,
    message_of,
    relation_of,
    truncate_of,
    type_of,
)
from pitr.domain.pgoutput.model import Transaction

# As a server writes them.
BEGIN = bytes.fromhex("4200000000016b37480002fce6d11234560000002a")
COMMIT = bytes.fromhex("430000000000016b374800000000016b37780002fce6d1123456")
RELATION = (
    b"R\0\0\x40\x01public\0t\xc3\xa4ble\0d\0\2"
    b"\1id\0\0\0\0\x14\xff\xff\xff\xff"
    b"\0amount\0\0\0\6\xa4\0\x0a\0\6"
)
TYPE = b"Y\0\0\x40\x07public\0mood\0"
TRUNCATE = b"T\0\0\0\2\3\0\0\x40\1\0\0\x40\2"
MESSAGE = b'M\1\0\0\0\0\1k7\0pitr\0\0\0\0\x0e{"actor":"me"}'


def test_begin() -> None:
    found = begin_of(BEGIN)
    assert found == Transaction(lsn=0x16B3748, commit_us=found.commit_us, xid=42)
    assert found.commit_us == 946_684_800_000_000 + 0x2FCE6D1123456
    assert found.tx == "42:0/16B3748"


def test_commit() -> None:
    assert commit_of(COMMIT) == Commit(
        flags=0,
        commit_lsn=0x16B3748,
        end_lsn=0x16B3778,
        commit_us=946_684_800_000_000 + 0x2FCE6D1123456,
    )


def test_relation() -> None:
    assert relation_of(RELATION) == RawRelation(
        relid=16385,
        schema="public",
        name="täble",
        identity="d",
        columns=(
            RawColumn(name="id", type_oid=20, typmod=-1, in_identity=True),
            RawColumn(name="amount", type_oid=1700, typmod=655_366, in_identity=False),
        ),
    )


def test_an_empty_schema_is_that_of_the_system() -> None:
    assert relation_of(RELATION.replace(b"public", b"")).schema == "pg_catalog"
    assert type_of(TYPE.replace(b"public", b"")).schema == "pg_catalog"


def test_type() -> None:
    assert type_of(TYPE) == RawType(oid=16391, schema="public", name="mood")


def test_truncate() -> None:
    assert truncate_of(TRUNCATE) == Truncate(
        relids=(16385, 16386), cascade=True, restart_identity=True
    )


def test_message() -> None:
    assert message_of(MESSAGE) == LogicalMessage(
        transactional=True, lsn=0x16B3700, prefix="pitr", content=b'{"actor":"me"}'
    )


def test_a_prefix_that_is_not_utf8_is_none_of_ours() -> None:
    assert message_of(MESSAGE.replace(b"pitr", b"pit\xff")).prefix == "pit\\xff"


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        (BEGIN, begin_of),
        (COMMIT, commit_of),
        (RELATION, relation_of),
        (TYPE, type_of),
        (TRUNCATE, truncate_of),
        (MESSAGE, message_of),
    ],
)
def test_a_message_that_was_cut_or_is_longer(payload: bytes, read: Callable[[bytes], Any]) -> None:
    read(payload)
    for wrong in [*(payload[:end] for end in range(1, len(payload))), payload + b"\0"]:
        with pytest.raises(BadMessage):
            read(wrong)


def test_a_name_that_is_not_utf8() -> None:
    with pytest.raises(BadMessage, match="relation: name: is not UTF-8"):
        relation_of(RELATION.replace(b"\xc3\xa4", b"\xe4"))
