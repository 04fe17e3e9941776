"""Random streams: tables, rows, transactions, and messages that are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pitr.domain.pgoutput.model import Column, Form, Relation
from tests.domain.pgoutput.builders import (
    Value,
    begin,
    commit,
    delete,
    insert,
    message,
    truncate,
    unchanged,
    update,
)

FORMS: tuple[Form, ...] = ("integer", "number", "boolean", "string", "array")

texts = st.text(
    st.one_of(
        st.sampled_from('"\\/\b\t\n\f\r\x01\x1f\x7f{},[]: aäß\u2028東🐘'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)
integers = st.one_of(
    st.integers().map(str), st.sampled_from(["0", "-0", "007", "-07", "-", "--1", "1-2", "", '"\n'])
)
numbers = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.floats().map(repr),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "1e+20", "0.10", "-0.0", "1.", ".5", "01.5", "\\"]
    ),
)
booleans = st.sampled_from(["t", "f", "t", "f", "t", "f", "true", "", '"'])


def rarely(draw: st.DrawFn, times: int = 60) -> bool:
    """Draw True about once in so many times; the ends of a range come more often than that."""
    return draw(st.integers(0, times)) == times // 2 + 1


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "{" + ",".join(map(_literal, value)) + "}"
    if value is None:
        return "NULL"
    plain = value and value.upper() != "NULL" and not set(value) & set('{},"\\ \t\n\r\v\f')
    return value if plain else _quoted(value)


def arrays(element: Form) -> st.SearchStrategy[str]:
    """Literals as ``array_out`` writes them, and some that it does not."""
    items = st.lists(st.none() | scalars(element), max_size=4)
    return st.one_of(
        items.map(_literal),
        st.lists(items.filter(bool), min_size=1, max_size=3).map(_literal),
        items.map(lambda each: f"[2:{len(each) + 1}]={_literal(each)}"),
        st.text('{},"\\aN 1', max_size=10),
    )


def scalars(form: Form) -> st.SearchStrategy[str]:
    return {"integer": integers, "number": numbers, "boolean": booleans, "string": texts}[form]


def values(column: Column) -> st.SearchStrategy[str]:
    if column.form == "array":
        return arrays(column.element or "string")
    return scalars(column.form)


@st.composite
def relations(draw: st.DrawFn, relid: int) -> Relation:
    """A table of 1 to 12 columns."""
    names = draw(st.lists(texts.filter(bool), min_size=1, max_size=12, unique=True))
    columns = []
    for name in names:
        form = draw(st.sampled_from(FORMS))
        element = draw(st.sampled_from(FORMS[:4])) if form == "array" else None
        columns.append(Column(name=name, type_oid=25, typmod=-1, form=form, element=element))
    key = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    identity = draw(st.sampled_from(["d", "i", "f"]))
    return Relation(
        relid=relid,
        schema=draw(st.sampled_from(["public", "a.b", 's"ä'])),
        name="long" * 130 if rarely(draw) else draw(st.sampled_from(["t", "orders"])),
        identity=identity,
        columns=tuple(columns),
        key=tuple(key if identity != "f" or draw(st.booleans()) else names),
    )


def _flawed(draw: st.DrawFn, value: str) -> bytes:
    raw = value.encode()
    if not rarely(draw):
        return raw
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    flawed = [raw + b"\xff", first + raw, raw + first, second + raw, raw * 3000]
    return draw(st.sampled_from(flawed))


def _row(
    draw: st.DrawFn, relation: Relation, pool: dict[str, list[bytes]], *, sent: bool
) -> list[Value]:
    """A row; its values are often those of another one, so that keys stay or move."""
    row: list[Value] = []
    for column in relation.columns:
        known = pool.setdefault(column.name, [])
        choice = draw(st.integers(0, 9))
        in_key = column.name in relation.key
        if choice == 4 and (not in_key or rarely(draw)):
            row.append(None)
        elif choice == 5 and not sent and (not in_key or rarely(draw, 20)):
            row.append(unchanged)
        elif choice != 6 and known:
            row.append(draw(st.sampled_from(known)))
        else:
            known.append(_flawed(draw, draw(values(column))))
            row.append(known[-1])
    return row


def _key_only(relation: Relation, row: Sequence[Value]) -> list[Value]:
    return [
        value if column.name in relation.key else None
        for column, value in zip(relation.columns, row, strict=True)
    ]


def _change(draw: st.DrawFn, tables: Sequence[Relation], pools: Any) -> bytes:
    relation = draw(st.sampled_from(tables))
    pool = pools.setdefault(relation.relid, {})
    relid = 99 if rarely(draw) else relation.relid
    odd = rarely(draw)  # Servers do not leave these out, but who knows.
    kind = draw(st.sampled_from("IUUUUDT"))
    if kind == "I":
        return insert(relid, _row(draw, relation, pool, sent=not odd))
    if kind == "T":
        relids = [each.relid for each in tables] + [98] * rarely(draw, 10)
        picked = draw(st.lists(st.sampled_from(relids), max_size=3, unique=True))
        return truncate(*picked, flags=draw(st.integers(0, 3)))
    old = _row(draw, relation, pool, sent=not odd)
    marker = draw(st.sampled_from("KO"))
    before: dict[str, Any] = {"old": old} if marker == "O" else {"key": _key_only(relation, old)}
    if kind == "D":
        return delete(relid, **before)
    new = _row(draw, relation, pool, sent=False)
    return update(relid, new, **(before if draw(st.booleans()) else {}))


good_said = st.fixed_dictionaries(
    {},
    optional={
        "actor": st.none() | st.text(max_size=5).filter(lambda text: "\0" not in text),
        "reason": st.none() | st.text(max_size=5).filter(lambda text: "\0" not in text),
        "meta": st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "é"]),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["a", "pitr", "cascade"]), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        "more": st.integers(0, 9),
    },
).map(lambda of: json.dumps(of, ensure_ascii=False, separators=(",", ":")).encode())
bad_said = st.sampled_from(
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"actor":1}',
        b'{"actor":"\\u0000"}',
        b'{"actor":"\xff"}',
        b'{"meta":{"a":1,"a":2}}',
        b'{"actor":"a","actor":"b"}',
    ]
)


def _message(draw: st.DrawFn) -> bytes:
    return message(
        draw(bad_said if rarely(draw, 6) else good_said),
        prefix=draw(st.sampled_from(["pitr.ddl", "pitr", "pitr", "pitr", "pitr", "other"])),
        transactional=not rarely(draw, 10),
    )


def _damaged(draw: st.DrawFn, payload: bytes) -> bytes:
    place = draw(st.integers(0, len(payload) - 1))
    match draw(st.integers(0, 3)):
        case 0:
            return payload[:place]
        case 1:
            return payload + b"\0"
        case 2:
            return draw(st.sampled_from([b"", b"X", b"R1", b"Y", b"I", b"T", b"B", b"C", b"M"]))
    byte = draw(st.sampled_from([0, 1, ord("b"), ord("n"), ord("t"), ord("u"), 255]))
    return payload[:place] + bytes([byte]) + payload[place + 1 :]


@dataclass
class Stream:
    """Messages of some tables."""

    relations: list[Relation]
    messages: list[bytes]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Whole transactions of a few tables; some messages damaged."""
    tables = [draw(relations(relid)) for relid in range(1, draw(st.integers(1, 3)) + 1)]
    pools: dict[int, dict[str, list[bytes]]] = {}
    found: list[bytes] = []
    for number in range(draw(st.integers(0, 4))):
        lsn = draw(st.integers(0, 2**64 - 64))
        found.append(begin(lsn=lsn, xid=number, commit_us=draw(st.integers(-(2**60), 2**60))))
        for _ in range(draw(st.integers(0, 8))):
            if draw(st.integers(0, 4)) != 3:
                found.append(_change(draw, tables, pools))
            else:
                found.append(_message(draw))
        found.append(commit(lsn=lsn))
    for place, payload in enumerate(found):
        if rarely(draw) and payload[:1] != b"M":
            found[place] = _damaged(draw, payload)
    return Stream(tables, found)
