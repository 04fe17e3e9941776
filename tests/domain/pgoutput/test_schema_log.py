"""The tables of a source as rows of the log: what each step writes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pitr.domain.pgoutput.schema import Constraint, TableColumn, TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_log import (
    NEW,
    SCHEMAS,
    changes_of_steps,
    emptied,
    schema_steps,
    steps_of_relation,
)

ID = TableColumn(number=1, name="id", type="integer", type_oid=23, not_null=True)
TEXT = TableColumn(number=2, name="body", type="text", type_oid=25)
TABLE = TableSchema(
    schema="public",
    name="rows",
    relid=7,
    kind="table",
    logged=True,
    identity="d",
    identity_columns=("id",),
    columns=(ID, TEXT),
    primary_key=Constraint(kind="primary", name="rows_pkey", columns=("id",), definition="(id)"),
)


def written(table: pa.Table) -> list[tuple[Any, ...]]:
    assert table["position"].to_pylist() == list(range(len(table)))
    return [
        (row["collection"], row["op"], json.loads(row["key"])["collection"] if row["key"] else None)
        for row in table.to_pylist()
    ]


def test_a_new_table_is_a_row_and_has_to_be_read() -> None:
    [step] = schema_steps({}, {7: TABLE})
    assert step.reasons == (NEW,)
    table = changes_of_steps([step], commit_us=5)
    assert written(table) == [(SCHEMAS, "update", "public.rows")]
    assert table["commit_us"].to_pylist() == [5]
    assert schema_from_body(table["after"][0].as_py().encode()) == TABLE


def test_nothing_new_is_no_step() -> None:
    assert schema_steps({7: TABLE}, {7: TABLE}) == []


def test_a_column_without_values_needs_no_reading() -> None:
    more = replace(TEXT, number=3, name="more")
    [step] = schema_steps({7: TABLE}, {7: replace(TABLE, columns=(ID, TEXT, more))})
    assert (step.reasons, step.empties, step.is_another) == ((), (), False)


def test_a_renamed_table_leaves_its_old_collection_empty() -> None:
    [step] = schema_steps({7: TABLE}, {7: replace(TABLE, name="others")})
    assert step.is_another
    assert written(changes_of_steps([step], commit_us=None)) == [
        ("public.rows", "truncate", None),
        (SCHEMAS, "delete", "public.rows"),
        (SCHEMAS, "update", "public.others"),
    ]


def test_a_table_that_is_gone_has_no_rows_and_no_schema() -> None:
    another = replace(TABLE, relid=8)
    steps = schema_steps({7: TABLE}, {8: another})
    assert written(changes_of_steps(steps, commit_us=None)) == [
        ("public.rows", "truncate", None),
        (SCHEMAS, "delete", "public.rows"),
        (SCHEMAS, "update", "public.rows"),
    ]
    assert written(emptied([TABLE])) == [
        ("public.rows", "truncate", None),
        (SCHEMAS, "delete", "public.rows"),
    ]


def test_a_table_that_takes_the_name_of_another_is_not_emptied_after_it() -> None:
    """The rows that come with it are those of the new one."""
    new = replace(TABLE, relid=8)
    steps = steps_of_relation({7: TABLE}, None, new)
    assert [(step.before, step.after) for step in steps] == [(TABLE, None), (None, new)]
    assert written(changes_of_steps(steps, commit_us=5)) == [
        ("public.rows", "truncate", None),
        (SCHEMAS, "delete", "public.rows"),
        (SCHEMAS, "update", "public.rows"),
    ]
    assert steps_of_relation({8: new}, new, new) == []


def test_tables_that_exchange_their_names_keep_their_rows_in_pitr_schemas() -> None:
    other = replace(TABLE, relid=8, name="others")
    found = {7: replace(TABLE, name="others"), 8: replace(other, name="rows")}
    table = changes_of_steps(schema_steps({7: TABLE, 8: other}, found), commit_us=5)
    last = {key: op for _, op, key in written(table) if key is not None}
    assert last == {"public.rows": "update", "public.others": "update"}
    empties = [place for place, (_, op, _) in enumerate(written(table)) if op != "update"]
    assert empties == [0, 1, 2, 3]


def named(relid: int, name: str) -> TableSchema:
    return replace(TABLE, relid=relid, name=name)


@pytest.mark.parametrize(
    "names",
    [("b", "a"), ("b", "c", "a"), ("c", "a", "b"), ("old", "a"), ("b", "old")],
    ids="-".join,
)
def test_names_that_went_round_are_followed_in_whatever_order_rows_come(
    names: tuple[str, ...],
) -> None:
    """Tables a, b, c have other names now, and are written to one after the other.

    No rows of the one table are left to the other, and none that came are thrown away.
    """
    before = {relid: named(relid, "abc"[relid]) for relid in range(len(names))}
    after = {relid: named(relid, name) for relid, name in enumerate(names)}
    for order in itertools.permutations(after):
        known = dict(before)
        rows = {schema.collection: {relid} for relid, schema in known.items()}
        documents = {schema.collection for schema in known.values()}
        for relid in order:
            table = after[relid]
            steps = steps_of_relation(known, known.get(relid), table)
            assert steps[-1].after == table and steps[-1].reasons
            for collection, op, key in written(changes_of_steps(steps, commit_us=None)):
                if op == "truncate":
                    rows.pop(collection)
                elif op == "delete":
                    documents.remove(str(key))
                else:
                    documents.add(str(key))
            for step in steps:
                if step.after is None and step.before is not None:
                    del known[step.before.relid]
            known[relid] = table
            rows.setdefault(table.collection, set()).add(relid)
            assert documents == {schema.collection for schema in known.values()}
        assert rows == {schema.collection: {relid} for relid, schema in after.items()}
        assert known == after and schema_steps(known, after) == []
