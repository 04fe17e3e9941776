"""A table's document, and what a difference of two says about the rows in the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from pitr.domain.errors import DataLoss
from pitr.domain.pgoutput import schema_log
from pitr.domain.pgoutput.model import Column, Relation
from pitr.domain.pgoutput.schema import (
    Constraint,
    ForeignKey,
    Index,
    Partition,
    SequenceSchema,
    TableColumn,
    TableSchema,
    UsedType,
    schema_from_body,
)
from pitr.domain.pgoutput.schema_change import SchemaChange, describes, difference
from pitr.domain.pgoutput.schema_log import UNDESCRIBED, schema_steps

INTEGER, TEXT, VARCHAR, NUMERIC = 23, 25, 1043, 1700


def column(number: int, name: str, **fields: Any) -> TableColumn:
    given = {"type": "integer", "type_oid": INTEGER, "written": 7, **fields}
    return TableColumn(number=number, name=name, **given)


KEY = Constraint(kind="primary", name="t_pkey", columns=("id",), definition="PRIMARY KEY (id)")
TABLE = TableSchema(
    schema="public",
    name="t",
    relid=100,
    kind="table",
    logged=True,
    identity="d",
    identity_columns=("id",),
    primary_key=KEY,
    columns=(column(1, "id", not_null=True), column(2, "a"), column(4, "b")),
    storage=100,
)
FULL = replace(
    TABLE,
    constraints=(
        Constraint(kind="unique", name="u", columns=("a",), definition="UNIQUE (a)"),
        Constraint(kind="check", name="c", columns=(), definition="CHECK (true)"),
    ),
    foreign_keys=(
        ForeignKey(
            name="f",
            columns=("a", "b"),
            schema="other",
            table="é",
            referenced=("x", "y"),
            on_update="NO ACTION",
            on_delete="CASCADE",
            definition="FOREIGN KEY …",
            deferrable=True,
        ),
    ),
    indexes=(Index(name="i", unique=True, columns=(None, "a"), where="(a > 1)", definition="…"),),
    sequences=(
        SequenceSchema(
            schema="public",
            name="s",
            relid=101,
            column="id",
            owned=True,
            type="bigint",
            start=1,
            increment=1,
            minimum=-(2**63),
            maximum=2**63 - 1,
            cache=1,
            cycle=False,
            last_value=42,
            is_called=True,
        ),
    ),
    types=(
        UsedType(kind="enum", schema="public", name="mood", oid=102, labels=("sad", "ok")),
        UsedType(kind="composite", schema="public", name="p", oid=103, attributes=(("x", "int"),)),
    ),
    partitions=(
        Partition(relid=104, parent=100, schema="public", name="p", kind="table", bound="DEFAULT"),
    ),
)


@pytest.mark.parametrize("schema", [TABLE, FULL])
def test_a_document_comes_back_as_it_was(schema: TableSchema) -> None:
    assert schema_from_body(schema.body()) == schema
    assert orjson.loads(schema.body())["format"] == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"format":2}', b'{"format":1}', b"\xff"])
def test_what_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(DataLoss):
        schema_from_body(body)


def test_the_digest_is_of_what_lasts() -> None:
    """A vacuum, an insert, a name from before do not make another table."""
    (sequence,) = FULL.sequences
    same = replace(
        FULL,
        storage=9,
        former=("x",),
        sequences=(replace(sequence, last_value=43),),
        columns=tuple(replace(each, written=9) for each in FULL.columns),
    )
    assert same.digest == FULL.digest
    assert same.without_values() != FULL.without_values()
    for other in (
        replace(FULL, name="u"),
        replace(FULL, identity="f"),
        replace(FULL, indexes=()),
        replace(FULL, sequences=(replace(sequence, increment=2),)),
        replace(FULL, columns=FULL.columns[:2]),
        replace(FULL, types=()),
    ):
        assert other.digest != FULL.digest


def with_columns(*columns: TableColumn, **fields: Any) -> TableSchema:
    return replace(TABLE, columns=columns, **fields)


def changed(after: TableSchema, before: TableSchema = TABLE) -> SchemaChange:
    return difference(before, after)


def test_nothing_is_nothing() -> None:
    for same in (TABLE, replace(TABLE, storage=101)):
        change = changed(same)
        assert change.is_empty and not change.must_read_again


ID, A, B = TABLE.columns
NEW = column(5, "n")


def test_a_column_that_is_added_without_values_is_told_by_the_log() -> None:
    change = changed(with_columns(ID, A, B, NEW))
    assert change.added == (NEW,) and not change.must_read_again and not change.is_empty


@pytest.mark.parametrize(
    "fields",
    [
        {"missing": "{5}", "default": "5"},
        {"missing": "{5}"},
        {"default": "random()"},
        {"identity": "a", "not_null": True},
        {"not_null": True},
    ],
)
def test_a_column_that_may_come_with_values_is_not(fields: dict[str, Any]) -> None:
    change = changed(with_columns(ID, A, B, column(5, "n", **fields)))
    assert change.filled == ("n",) and change.must_read_again


def test_a_generated_column_is_not_in_the_log() -> None:
    generated = column(5, "g", generated="(id * 2)", not_null=True)
    assert not changed(with_columns(ID, A, B, generated)).must_read_again
    stays = with_columns(ID, A, B, replace(generated, generated=None))
    assert changed(stays, with_columns(ID, A, B, generated)).filled == ("g",)


def test_a_dropped_column_needs_nothing() -> None:
    change = changed(with_columns(ID, B))
    assert change.dropped == ("a",) and not change.must_read_again


def test_a_renamed_column_is_known_by_its_number() -> None:
    change = changed(with_columns(ID, replace(A, name="z"), B))
    assert change.renamed == (("a", "z"),) and change.must_read_again
    assert not change.added and not change.dropped


def test_a_name_that_comes_back_means_another_column() -> None:
    """Old rows in the log have the name, however long ago its column was dropped."""
    at_once = changed(with_columns(ID, B, column(5, "a")))
    assert (at_once.dropped, at_once.reused, at_once.must_read_again) == (("a",), ("a",), True)
    dropped = with_columns(ID, B).following(TABLE)
    assert dropped.former == ("a",)
    later = with_columns(ID, B, NEW).following(dropped)
    again = with_columns(ID, B, NEW, column(6, "a"))
    assert changed(again, later).reused == ("a",)
    assert not changed(again, with_columns(ID, B, NEW)).must_read_again


@pytest.mark.parametrize(
    ("before", "after", "same_text"),
    [
        (("varchar(5)", VARCHAR, 9), ("varchar(9)", VARCHAR, 13), True),
        (("varchar(5)", VARCHAR, 9), ("varchar", VARCHAR, -1), True),
        (("varchar(5)", VARCHAR, 9), ("text", TEXT, -1), True),
        (("text", TEXT, -1), ("varchar", VARCHAR, -1), True),
        (("text", TEXT, -1), ("varchar(9)", VARCHAR, 13), False),
        (("varchar(9)", VARCHAR, 13), ("varchar(5)", VARCHAR, 9), False),
        (
            ("numeric(5,2)", NUMERIC, (5 << 16 | 2) + 4),
            ("numeric(9,2)", NUMERIC, (9 << 16 | 2) + 4),
            True,
        ),
        (("numeric(5,2)", NUMERIC, (5 << 16 | 2) + 4), ("numeric", NUMERIC, -1), True),
        (
            ("numeric(5,2)", NUMERIC, (5 << 16 | 2) + 4),
            ("numeric(9,3)", NUMERIC, (9 << 16 | 3) + 4),
            False,
        ),
        (("numeric", NUMERIC, -1), ("numeric(9,2)", NUMERIC, (9 << 16 | 2) + 4), False),
        (("integer", INTEGER, -1), ("bigint", 20, -1), False),
    ],
)
def test_another_type_may_write_values_alike(before: Any, after: Any, same_text: bool) -> None:
    names = ("type", "type_oid", "typmod")
    was = replace(A, **dict(zip(names, before, strict=True)))
    now = replace(A, **dict(zip(names, after, strict=True)), written=8)
    change = changed(with_columns(ID, now, B), with_columns(ID, was, B))
    (retyped,) = change.retyped
    assert retyped.same_text == same_text
    assert change.must_read_again == (not same_text)
    # With USING, the values may be others.
    rewritten = changed(with_columns(ID, now, B, storage=101), with_columns(ID, was, B))
    assert rewritten.must_read_again


def test_rows_written_anew_with_an_altered_column_may_be_others() -> None:
    """``ALTER COLUMN a TYPE integer USING a + 1`` shows nowhere else; VACUUM FULL alters none."""
    altered = with_columns(ID, replace(A, written=8), B)
    assert changed(replace(altered, storage=101)).rewritten
    assert not changed(altered).must_read_again
    assert not changed(replace(TABLE, storage=101)).must_read_again


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"name": "u"}, "table_renamed"),
        ({"schema": "s"}, "table_renamed"),
        ({"relid": 200}, "recreated"),
        ({"kind": "partitioned"}, "recreated"),
        ({"identity": "f"}, "identity_changed"),
        ({"logged": False}, "logging_changed"),
        ({"identity_columns": ("a",), "identity": "i"}, "key_changed"),
        ({"primary_key": None, "identity_columns": ()}, "key_changed"),
    ],
)
def test_what_the_table_is_counts(fields: dict[str, Any], flag: str) -> None:
    change = changed(replace(TABLE, **fields))
    assert getattr(change, flag) and change.must_read_again and change.reasons


def test_a_deferrable_key_is_no_key() -> None:
    """It may be double inside of a transaction, and the rows of one key would be one."""
    deferrable = replace(TABLE, identity="f", identity_columns=())
    assert deferrable.row_key == ("id",)
    deferrable = replace(deferrable, primary_key=replace(KEY, deferrable=True))
    assert deferrable.row_key == ("id", "a", "b")
    added = replace(deferrable, columns=(*deferrable.columns, NEW))
    assert changed(added, deferrable).key_changed


def test_types_may_write_values_otherwise() -> None:
    mood, pair = FULL.types
    assert not changed(replace(FULL, types=(replace(mood, name="m"), pair)), FULL).must_read_again
    longer = replace(mood, labels=("sad", "fine", "ok"))
    assert not changed(replace(FULL, types=(longer, pair)), FULL).must_read_again
    renamed = replace(mood, labels=("sad", "fine"))
    assert changed(replace(FULL, types=(renamed, pair)), FULL).retold == ("public.mood",)
    wider = replace(pair, attributes=(("x", "int"), ("y", "int")))
    assert changed(replace(FULL, types=(mood, wider)), FULL).retold == ("public.p",)


def test_partitions_come_with_rows_unless_they_were_made_as_such() -> None:
    (first,) = FULL.partitions
    second = replace(first, relid=105, name="q")
    attached = changed(replace(FULL, partitions=(first, second)), FULL)
    assert attached.attached == ("public.q",) and attached.must_read_again
    opened = changed(replace(FULL, partitions=(first, replace(second, born=True))), FULL)
    assert opened.opened == ("public.q",) and not opened.must_read_again and not opened.is_empty
    gone = changed(replace(FULL, partitions=()), FULL)
    assert gone.detached == ("public.p",) and gone.must_read_again


def test_what_rows_do_not_show_is_only_noted() -> None:
    for other in (
        replace(FULL, indexes=()),
        replace(FULL, foreign_keys=()),
        replace(FULL, columns=(ID, replace(A, default="5"), replace(B, not_null=True))),
    ):
        change = changed(other, FULL)
        assert change.other and not change.is_empty and not change.must_read_again


# What the stream brings ---------------------------------------------------------------------------


def relation(*names: str, key: tuple[str, ...] = ("id",), **fields: Any) -> Relation:
    columns = tuple(
        Column(name=name, type_oid=INTEGER, typmod=-1, form="number", in_identity=name in key)
        for name in names
    )
    given = {"relid": 100, "schema": "public", "name": "t", "identity": "d", **fields}
    return Relation(columns=columns, key=key, **given)


@pytest.mark.parametrize(
    ("rows", "is_told"),
    [
        (relation("id", "a", "b"), True),
        (relation("id", "b"), True),  # the others are not published, or were dropped
        (relation("id", "a", "c"), False),
        (relation("id", "a", "b", key=("a",)), False),
        (relation("id", "a", "b", identity="f"), False),
        (relation("id", "a", "b", name="u"), False),
    ],
)
def test_a_document_describes_rows_of_its_columns(rows: Relation, is_told: bool) -> None:
    assert describes(TABLE, rows) is is_told


def test_a_document_describes_rows_of_its_types_only() -> None:
    longer = replace(TABLE, columns=(*TABLE.columns[:2], column(4, "b", typmod=9)))
    assert not describes(longer, relation("id", "a", "b"))


def test_rows_without_a_key_are_described_with_all_their_columns() -> None:
    keyless = replace(TABLE, identity="f", identity_columns=(), primary_key=None)
    names = ("id", "a", "b")
    assert describes(keyless, relation(*names, key=names, identity="f"))
    assert not describes(keyless, relation("id", "a", key=("id", "a"), identity="f"))


def test_what_is_of_another_shape_is_emptied_and_read_again() -> None:
    (step,) = schema_steps({100: TABLE}, {100: TABLE}, undescribed={"public.t"})
    assert (step.empties, step.reasons) == (("public.t",), (UNDESCRIBED,))
    (step,) = schema_steps({}, {100: TABLE}, undescribed={"public.t"})
    assert (step.empties, step.reasons) == (("public.t",), (schema_log.NEW, UNDESCRIBED))
    assert schema_steps({100: TABLE}, {100: TABLE}, undescribed={"public.u"}) == []
