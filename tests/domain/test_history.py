"""History: each change of a row with the whole row before and after it, and what differs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.fold import fold
from pitr.domain.history import FieldChange, field_changes, row_changes
from pitr.domain.target import Cut

KEY = '{"id":1}'


def change(
    seq: int,
    op: Op,
    after: bytes | None = None,
    *,
    before: bytes | None = None,
    unchanged: bytes | None = None,
) -> Change:
    return Change(
        seq=seq,
        collection="c",
        key="" if op is Op.TRUNCATE else KEY,
        op=op,
        after=after,
        before=before,
        unchanged=unchanged,
        at_us=seq,
        commit_us=seq,
        recorded_us=seq,
        lane="l",
        position=seq,
    )


def images(*changes: Change) -> list[tuple[int, bytes | None, bytes | None]]:
    found = row_changes(list(reversed(changes)))
    return [(row.change.seq, row.before, row.after) for row in found]


def test_each_change_has_the_row_before_and_after_it_newest_first() -> None:
    assert images(
        change(1, Op.CREATE, b'{"n":1.10}'),
        change(2, Op.PATCH, b'{"m":2}'),
        change(3, Op.UPDATE, b'{"n":3}'),
        change(4, Op.DELETE),
        change(5, Op.READ, b'{"n":4}'),
    ) == [
        (5, None, b'{"n":4}'),
        (4, b'{"n":3}', None),
        (3, b'{"n":1.10,"m":2}', b'{"n":3}'),
        (2, b'{"n":1.10}', b'{"n":1.10,"m":2}'),
        (1, None, b'{"n":1.10}'),
    ]


def test_a_truncate_is_in_the_history_of_a_row_that_it_removed_only() -> None:
    assert images(
        change(1, Op.TRUNCATE),
        change(2, Op.CREATE, b"{}"),
        change(3, Op.TRUNCATE),
        change(4, Op.TRUNCATE),
    ) == [(3, b"{}", None), (2, None, b"{}")]


def test_an_image_that_the_change_brought_along_helps_where_the_log_knows_none() -> None:
    """A log that starts in the middle of a row's life."""
    assert images(change(1, Op.DELETE, before=b'{"n":1}')) == [(1, b'{"n":1}', None)]
    assert images(change(1, Op.UPDATE, b'{"n":2}', before=b'{"n":1}')) == [
        (1, b'{"n":1}', b'{"n":2}')
    ]


def test_the_log_is_believed_over_what_a_change_brought_along() -> None:
    """A source may send its key columns only."""
    found = images(change(1, Op.CREATE, b'{"n":1}'), change(2, Op.DELETE, before=b'{"id":1}'))
    assert found[0] == (2, b'{"n":1}', None)


def test_a_patch_with_unchanged_members_is_shown_as_the_whole_row() -> None:
    (newest, _) = row_changes(
        [
            change(2, Op.PATCH, b'{"n":2}', unchanged=b'["big"]'),
            change(1, Op.CREATE, b'{"n":1,"big":"x"}'),
        ]
    )
    assert newest.after == b'{"n":2,"big":"x"}'
    assert newest.fields == (FieldChange(name="n", before=b"1", after=b"2"),)
    assert newest.change.op is Op.PATCH, "the change itself is shown as it came"


def test_there_is_no_history_of_a_row_that_never_was() -> None:
    assert row_changes([]) == []


# Fields


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        (b'{"a":1}', b'{"a":1}', []),
        (b'{"a":1}', b'{"a":1.0}', [("a", b"1", b"1.0")]),
        (b'{"a":null}', b"{}", [("a", b"null", None)]),
        (b"{}", b'{"a":null}', [("a", None, b"null")]),
        (None, b'{"a":1,"b":2}', [("a", None, b"1"), ("b", None, b"2")]),
        (b'{"a":1}', None, [("a", b"1", None)]),
        (
            b'{"z":1,"a":1}',
            b'{"b":1,"a":2}',
            [("b", None, b"1"), ("a", b"1", b"2"), ("z", b"1", None)],
        ),
        (b'{"\\u0061":1}', b'{"a":1}', []),
        (None, None, []),
        (b"[1]", b"[2]", []),
    ],
)
def test_the_fields_that_differ_are_told_in_the_order_of_the_newer_image(
    before: bytes | None, after: bytes | None, fields: list[tuple[str, bytes, bytes]]
) -> None:
    assert [(f.name, f.before, f.after) for f in field_changes(before, after)] == fields


# Against the fold

documents = st.dictionaries(st.sampled_from("ab"), st.sampled_from([None, 1, 2, {"x": 1}])).map(
    lambda value: json.dumps(value).encode()
)
ops = st.tuples(st.sampled_from(list(Op)), documents)


@given(st.lists(ops, max_size=8))
def test_every_image_is_the_state_that_a_restore_would_bring_back(given: list[Any]) -> None:
    changes = [
        change(seq, op, None if op in (Op.DELETE, Op.TRUNCATE) else document)
        for seq, (op, document) in enumerate(given, start=1)
    ]

    def image(seq_end: int) -> bytes | None:
        return next((row.after for row in fold(changes, Cut(seq_end=seq_end)).values()), None)

    for row in row_changes(changes[::-1]):
        assert (row.before, row.after) == (image(row.change.seq), image(row.change.seq + 1))
