"""A part of the stream as changes: exact, in order, and the same as read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.batch import Decoded
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.pgoutput import changes, decode
from pitr.domain.pgoutput.decode import decode_part
from pitr.domain.pgoutput.model import Relation, Transaction
from tests.domain.pgoutput import naive
from tests.domain.pgoutput.builders import (
    begin,
    commit,
    delete,
    insert,
    message,
    part,
    relation,
    truncate,
    unchanged,
    update,
)
from tests.domain.pgoutput.strategies import Stream, streams

ORDERS = relation(1, "orders", [("id", "integer"), ("status", "string"), ("note", "string")])
WHOLE = relation(2, "whole", [("b", "string"), ("a", "integer")], identity="f", key=("b", "a"))


def decoded(messages: Sequence[bytes], *relations: Relation, **more: Any) -> Decoded:
    """Decode messages in one transaction, as the plain decoder does too."""
    whole = part([begin(), *messages, commit()], *(relations or (ORDERS, WHOLE)), **more)
    found = decode_part(whole, position_first=0)
    check(found, naive.decode(whole, position_first=0))
    return found


def rows(messages: Sequence[bytes], *relations: Relation) -> list[dict[str, Any]]:
    """Decode good messages; of each change what is not null and belongs to it alone."""
    found = decoded(messages, *relations)
    assert found.quarantined == ()
    apart = ("commit_us", "position", "tx")
    return [
        {name: value for name, value in row.items() if value is not None and name not in apart}
        for row in found.changes.to_pylist()
    ]


def flaws(messages: Sequence[bytes], *relations: Relation) -> list[tuple[str, str]]:
    """Decode bad messages."""
    found = decoded(messages, *relations)
    assert found.changes.num_rows == 0
    return [(each.code, each.reason) for each in found.quarantined]


def check(found: Decoded, plain: naive.Naive) -> None:
    found.changes.validate(full=True)
    assert found.changes.schema == DRAFT_SCHEMA
    assert found.changes.to_pylist() == plain.changes
    assert [(q.position, q.body, q.code) for q in found.quarantined] == plain.quarantined
    assert {each.format for each in found.quarantined} <= {"pgoutput"}


def test_the_changes_of_a_transaction() -> None:
    messages = [
        insert(1, ["42", "new", None]),
        update(1, ["42", "paid", 'say "hi"\n']),
        delete(1, key=["42", None, None]),
    ]
    whole = part([begin(), *messages, commit()], ORDERS)
    assert decode_part(whole, position_first=7).changes.to_pylist() == [
        {
            "collection": "public.orders",
            "key": '{"id":42}',
            "op": op,
            "after": after,
            "before": None,
            "unchanged": None,
            "commit_us": 1_772_357_400_250_001,
            "position": position,
            "tx": "7:0/16B3748",
            "actor": None,
            "reason": None,
            "meta": None,
        }
        for position, op, after in [
            (7, "create", '{"id":42,"status":"new","note":null}'),
            (8, "update", '{"id":42,"status":"paid","note":"say \\"hi\\"\\n"}'),
            (9, "delete", None),
        ]
    ]


def test_a_value_that_was_not_sent_makes_a_patch() -> None:
    assert rows([update(1, ["42", "paid", unchanged])]) == [
        {
            "collection": "public.orders",
            "key": '{"id":42}',
            "op": "patch",
            "after": '{"id":42,"status":"paid"}',
            "unchanged": '["note"]',
        }
    ]


def test_a_value_that_was_not_sent_is_taken_from_the_old_row() -> None:
    (found,) = rows([update(2, [unchanged, "1"], old=["x", "1"])])
    assert (found["op"], found["after"]) == ("update", '{"b":"x","a":1}')
    assert found["before"] == '{"b":"x","a":1}'


def test_values_of_some_rows_are_null_and_those_of_others_were_not_sent() -> None:
    found = rows(
        [
            update(1, ["1", None, unchanged], old=["1", "a", "b"]),
            update(1, ["2", unchanged, None], old=["2", None, "b"]),
            update(1, ["3", unchanged, unchanged], old=["3", None, unchanged]),
        ]
    )
    assert [(each["op"], each["after"]) for each in found] == [
        ("update", '{"id":1,"status":null,"note":"b"}'),
        ("update", '{"id":2,"status":null,"note":null}'),
        ("patch", '{"id":3,"status":null}'),
    ]


def test_a_key_that_was_not_sent_is_taken_from_the_old_key() -> None:
    texts = relation(3, "texts", [("id", "string"), ("n", "integer")])
    (found,) = rows([update(3, [unchanged, "2"], key=["long", None])], texts)
    assert (found["op"], found["key"]) == ("update", '{"id":"long"}')
    assert found["after"] == '{"id":"long","n":2}'


def test_a_row_that_moves_is_deleted_and_created() -> None:
    found = rows([update(1, ["43", "paid", unchanged], key=["42", None, None])])
    assert [(each["op"], each["key"]) for each in found] == [
        ("delete", '{"id":42}'),
        ("create", '{"id":43}'),
    ]
    assert found[1]["after"] == '{"id":43,"status":"paid"}'
    assert found[1]["meta"] == '{"pitr":{"unknown":["note"]}}'


def test_the_whole_old_row_is_before() -> None:
    old, new = ["x", "1"], ["y", "1"]
    found = rows([update(2, old, old=old), update(2, new, old=old), delete(2, old=new)])
    assert [(each["op"], each["key"], each.get("before")) for each in found] == [
        ("update", '{"a":1,"b":"x"}', '{"b":"x","a":1}'),
        ("delete", '{"a":1,"b":"x"}', '{"b":"x","a":1}'),
        ("create", '{"a":1,"b":"y"}', None),
        ("delete", '{"a":1,"b":"y"}', '{"b":"y","a":1}'),
    ]


def test_each_form() -> None:
    table = relation(
        3,
        "forms",
        [
            ("id", "integer"),
            ("n", "number"),
            ("ok", "boolean"),
            ("s", "string"),
            ("tags", "array", "string"),
            ("ns", "array", "number"),
        ],
    )
    found = rows(
        [
            insert(3, ["1", "0.10", "t", "ä\u2028\x7f/", '{a,"b c",NULL,"NULL"}', "{1,NULL}"]),
            insert(3, ["-2", "NaN", "f", "", "{}", "{{1,2},{3,4}}"]),
            insert(3, ["3", "-Infinity", None, None, "[2:3]={a,b}", "{1e+20,NaN}"]),
            insert(3, ["18446744073709551616", "1e-05", "t", '{"a": 1}', None, None]),
        ],
        table,
    )
    assert [each["after"] for each in found] == [
        '{"id":1,"n":0.10,"ok":true,"s":"ä\u2028\x7f/","tags":["a","b c",null,"NULL"],'
        '"ns":[1,null]}',
        '{"id":-2,"n":"NaN","ok":false,"s":"","tags":[],"ns":[[1,2],[3,4]]}',
        '{"id":3,"n":"-Infinity","ok":null,"s":null,"tags":"[2:3]={a,b}","ns":[1e+20,"NaN"]}',
        '{"id":18446744073709551616,"n":1e-05,"ok":true,"s":"{\\"a\\": 1}","tags":null,"ns":null}',
    ]


def test_integers_and_nulls() -> None:
    table = relation(3, "t", [("id", "integer"), ("n", "integer")])
    found = rows([insert(3, ["-1", "-20"]), insert(3, ["10", None]), insert(3, ["0", None])], table)
    assert [each["after"] for each in found] == [
        '{"id":-1,"n":-20}',
        '{"id":10,"n":null}',
        '{"id":0,"n":null}',
    ]


@pytest.mark.parametrize("text", ["", "-", "1-2", "--1", "01", "-01", "1 ", "٣", "1\n", '"', "0x1"])
def test_a_text_that_is_not_of_its_form_stays_a_text(text: str) -> None:
    table = relation(3, "t", [("id", "integer"), ("n", "integer"), ("b", "boolean")])
    found = rows([insert(3, ["1", text, text]), insert(3, ["2", "7", "f"])], table)
    quoted = naive.dumps(text)
    assert [each["after"] for each in found] == [
        f'{{"id":1,"n":{quoted},"b":{quoted}}}',
        '{"id":2,"n":7,"b":false}',
    ]


def test_truncates() -> None:
    found = rows([truncate(1), truncate(2, 1, flags=3)])
    assert [(each["collection"], each["op"], each["key"], each.get("meta")) for each in found] == [
        ("public.orders", "truncate", "", None),
        ("public.whole", "truncate", "", '{"cascade":true,"restart_identity":true}'),
        ("public.orders", "truncate", "", '{"cascade":true,"restart_identity":true}'),
    ]


def test_what_the_app_says_holds_until_it_says_more() -> None:
    row = insert(1, ["1", None, None])
    found = rows(
        [
            row,
            message(b'{"actor":"user:7","reason":"POST /","meta":{ "ip" : "::1" }}'),
            row,
            message(b'{"actor":"nobody"}', prefix="other"),
            message(b'{"actor":"nobody"}', transactional=False),
            row,
            message(b'{"reason":"cron","more":1}'),
            row,
            commit(),
            row,
            begin(xid=8),
            row,
        ]
    )
    assert [(each.get("actor"), each.get("reason"), each.get("meta")) for each in found] == [
        (None, None, None),
        ("user:7", "POST /", '{ "ip" : "::1" }'),
        ("user:7", "POST /", '{ "ip" : "::1" }'),
        (None, "cron", None),
        (None, None, None),
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("said", "meta"),
    [
        (b"{}", b'{"cascade":true}'),
        (b'{"a":1}', b'{"a":1,"cascade":true}'),
        (b'{"cascade":1}', b'{"meta":{"cascade":1},"cascade":true}'),
        (b"[1]", b'{"meta":[1],"cascade":true}'),
    ],
)
def test_what_the_app_says_stays_beside_what_the_change_says(said: bytes, meta: bytes) -> None:
    (found,) = rows([message(b'{"meta":' + said + b"}"), truncate(1, flags=1)])
    assert found["meta"] == meta.decode()


def test_a_message_of_the_app_that_cannot_be_read() -> None:
    row = insert(1, ["1", None, None])
    bad = message(b'{"actor":7}')
    found = decoded([message(b'{"actor":"a"}'), bad, row])
    assert found.changes["actor"].to_pylist() == ["a"]
    assert found.changes["position"].to_pylist() == [1]
    (lost,) = found.quarantined
    assert (lost.position, lost.body, lost.code) == (0, bad, "bad_message")
    assert lost.reason == "actor: must be a string, is a number"
    assert lost.meta == b'{"tx":"7:0/16B3748"}'


def test_a_row_that_cannot_be_read_leaves_its_neighbours_alone() -> None:
    good = insert(1, ["1", "x", None])
    bad = insert(1, ["2", b"caf\xe9", None])
    found = decoded([good, bad, good])
    assert found.changes["position"].to_pylist() == [0, 2]
    (lost,) = found.quarantined
    assert (lost.position, lost.body, lost.format) == (1, bad, "pgoutput")
    assert (lost.code, lost.reason) == ("not_utf8", "status: is not UTF-8")
    assert lost.meta == (
        b'{"tx":"7:0/16B3748","collection":"public.orders","columns":[{"name":"id","type_oid":25},'
        b'{"name":"status","type_oid":25},{"name":"note","type_oid":25}]}'
    )


def test_characters_cut_in_two_are_no_text_even_where_they_meet() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    messages = [insert(1, ["1", b"x" + first, None]), insert(1, ["2", second, "é"])]
    assert [code for code, _ in flaws(messages)] == ["not_utf8"] * 2


def _long(count: int) -> bytes:
    return b"x" * count


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (insert(1, [None, "x", None]), "wrong_type", "key: id is null"),
        (update(1, [unchanged, "x", None]), "missing_key", "key: lacks id"),
        (insert(9, ["1"]), "bad_message", "relation: 9 was never described"),
        (insert(1, ["1"]), "bad_message", "row: has 1 columns, public.orders has 3"),
        (insert(1, ["1", "x", None])[:-1], "bad_message", "note: is missing"),
        (insert(1, ["1", None, "x"])[:-1], "bad_message", "note: ends too early"),
        (insert(1, ["1", None, "x"]) + b"n", "bad_message", "message: has bytes past its end"),
        (b"I\0\0\0\1N", "bad_message", "message: ends too early"),
        (b"I\0\0\0\1K\0\3nnn", "bad_message", "message: 'K' marks no row in 'I'"),
        (b"I\0\0\0\1N\0\3nnb", "bad_message", "note: is of the unknown kind b'b'"),
        (b"U\0\0\0\1K\0\3nnn", "bad_message", "message: has no new row"),
        (b"U\0\0\0\1K\0\3nnnO\0\3nnn", "bad_message", "message: has no new row"),
        (b"U\0\0\0\1K\0\3nnnN\0\4nnn", "bad_message", "row: has 4 columns, public.orders has 3"),
        (b"", "bad_message", "message: is of the unknown kind b''"),
        (b"R\0\0", "bad_message", "message: is of the unknown kind b'R'"),
        (b"T\0\0", "bad_message", "truncate: ends too early"),
        (truncate(1) + b"\0", "bad_message", "truncate: has bytes past its end"),
        (begin()[:-1], "bad_message", "begin: has 20 bytes, not 21"),
        (commit() + b"\0", "bad_message", "commit: has 27 bytes, not 26"),
        (message(b"{}") + b"\0", "bad_message", "message: has bytes past its end"),
        (
            insert(2, [_long(8192), "1"]),
            "key_too_long",
            "key: is too long bytes=8206 bytes_max=8192",
        ),
    ],
)
def test_flaws(payload: bytes, code: str, reason: str) -> None:
    assert flaws([payload]) == [(code, reason)]


def test_a_truncate_of_an_unknown_table_loses_only_that() -> None:
    found = decoded([truncate(1, 9, 2)])
    assert found.changes["position"].to_pylist() == [0, 2]
    assert [(each.position, each.code) for each in found.quarantined] == [(1, "bad_message")]


def test_a_table_without_a_key_or_with_too_long_a_name() -> None:
    keyless = relation(3, "keyless", [("a", "integer")], key=())
    empty = relation(4, "empty", [], key=())
    long = relation(5, "x" * 512, [("id", "integer")])
    other = relation(6, "other", [("a", "integer")], key=("b",))
    found = flaws(
        [insert(3, ["1"]), insert(4, []), insert(5, ["1"]), insert(6, ["1"])],
        keyless,
        empty,
        long,
        other,
    )
    assert found == [
        ("missing_key", "key: public.keyless has no columns for one"),
        ("missing_key", "key: public.empty has no columns for one"),
        ("collection_too_long", "collection: is over 512 bytes"),
        ("missing_key", "key: lacks b"),
    ]


def test_a_null_within_an_array_of_a_key() -> None:
    table = relation(3, "t", [("id", "array", "string")])
    found = decoded([insert(3, ['{"null"}']), insert(3, ["{a,NULL}"])], table)
    assert found.changes["key"].to_pylist() == ['{"id":["null"]}']
    assert [each.code for each in found.quarantined] == ["wrong_type"]


def test_too_large_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (changes, decode, naive):
        monkeypatch.setattr(module, "DOCUMENT_BYTES_MAX", 100)
    good, bad = insert(1, ["1", _long(50), None]), insert(1, ["1", _long(100), None])
    # Each quote takes two bytes in JSON.
    quotes = insert(1, ["1", '"' * 40, None])
    before = update(2, ["x", "1"], old=[_long(100), "1"])
    assert [code for code, _ in flaws([bad, quotes, before])] == ["document_too_large"] * 3
    assert decoded([bad, good, bad]).changes["position"].to_pylist() == [1]


def test_messages_that_hold_a_too_large_document_for_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (changes, decode, naive):
        monkeypatch.setattr(module, "DOCUMENT_BYTES_MAX", 100)
    monkeypatch.setattr(decode, "MESSAGE_BYTES_MAX", 200)
    good, bad = insert(1, ["1", _long(50), None]), insert(1, ["1", _long(200), None])
    said = message(b'{"actor":"' + _long(300) + b'"}')
    found = decoded([said, bad, good, truncate(*[1] * 60)])
    assert found.changes["position"].to_pylist() == list(range(1, 62))
    assert set(found.changes["actor"].to_pylist()) == {"x" * 300}
    assert [each.body for each in found.quarantined] == [bad]


def test_nothing() -> None:
    for messages in ([], [begin(), commit()], [begin(), truncate(), message(b"{}"), commit()]):
        found = decode_part(part(messages, ORDERS), position_first=0)
        assert found.changes.num_rows == 0
        assert found.changes.schema == DRAFT_SCHEMA


def test_rows_outside_of_transactions() -> None:
    row = insert(1, ["1", None, None])
    said = message(b'{"actor":"a"}')
    outside = part([said, row, begin(), commit(), row, begin(xid=8), row], ORDERS)
    found = decode_part(outside, position_first=0)
    check(found, naive.decode(outside, position_first=0))
    assert found.changes["tx"].to_pylist() == [None, None, "8:0/16B3748"]


def test_a_part_in_the_middle_of_a_transaction() -> None:
    before = Transaction(
        lsn=2**64 - 1, commit_us=5, xid=9, done=3, actor="a", reason="r", meta='{"m":1}'
    )
    middle = part([insert(1, ["1", None, None])], ORDERS, open_before=before)
    (found,) = decode_part(middle, position_first=0).changes.to_pylist()
    assert (found["tx"], found["commit_us"]) == ("9:FFFFFFFF/FFFFFFFF", 5)
    assert (found["actor"], found["reason"], found["meta"]) == ("a", "r", '{"m":1}')


@given(streams(), st.integers(0, 2**40))
def test_it_is_what_the_plain_decoder_gives(stream: Stream, position_first: int) -> None:
    whole = part(stream.messages, *stream.relations)
    plain = naive.decode(whole, position_first=position_first)
    check(decode_part(whole, position_first=position_first), plain)


@given(streams(), st.integers(1, 5))
def test_it_does_not_matter_how_much_is_decoded_at_once(stream: Stream, count: int) -> None:
    whole = part(stream.messages, *stream.relations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "RUN_MESSAGES", count)
        check(decode_part(whole, position_first=0), naive.decode(whole, position_first=0))


@given(streams(), st.data())
def test_the_parts_of_a_part_are_the_part(stream: Stream, data: st.DataObject) -> None:
    whole = part(stream.messages, *stream.relations)
    places = st.integers(0, len(stream.messages))
    cuts = sorted(data.draw(st.lists(places, max_size=4)))
    joined = naive.Naive()
    position, before = 5, None
    for first, end in zip([0, *cuts], [*cuts, len(stream.messages)], strict=True):
        piece = replace(whole, messages=stream.messages[first:end], open_before=before)
        found = decode_part(piece, position_first=position)
        joined.changes += found.changes.to_pylist()
        joined.quarantined += [(q.position, q.body, q.code) for q in found.quarantined]
        position += found.changes.num_rows + len(found.quarantined)
        before = naive.decode(piece, position_first=0).last
    check(decode_part(whole, position_first=5), joined)


def test_a_row_that_is_its_own_key_moves_when_a_null_becomes_empty() -> None:
    table = relation(1, "t", [("a", "string"), ("b", "string")], key=("a", "b"), identity="f")
    messages = [
        begin(),
        update(1, ["1", ""], old=["1", None]),
        update(1, ["1", None], old=["1", None]),
        delete(1, old=["1", None]),
        insert(1, [None, None]),
        commit(),
    ]
    decoded = decode_part(part(messages, table), position_first=0)
    changes = zip(*(decoded.changes[name].to_pylist() for name in ("op", "key")), strict=True)
    assert list(changes) == [
        ("delete", '{"a":"1"}'),
        ("create", '{"a":"1","b":""}'),
        ("update", '{"a":"1"}'),
        ("delete", '{"a":"1"}'),
    ]
    assert [each.code for each in decoded.quarantined] == ["missing_key"]
