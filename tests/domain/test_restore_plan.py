"""Plans of restores: read back as they were, refused when altered; what changed is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest

from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.outlook import Outlook, TableOutlook
from pitr.domain.restore_plan import (
    Asked,
    Into,
    PlannedRestore,
    check_same,
    does,
    place_kind,
    place_of,
    read_plan,
    refusals,
)
from pitr.domain.rewind.scope import CutWithTorn

ASKED = Asked(
    log="main",
    log_id="abc",
    target="before-tx:oops",
    kind="before_tx",
    cut=CutWithTorn(seq_end=301, at_us=None, torn={"t1": 7}),
    keys=frozenset({("shop.orders", '{"id":18446744073709551616}')}),
    where=("tenant = acme",),
)
INTO = Into(place="postgresql://u@h/db", force=True)
TABLE = TableOutlook(
    collection="shop.orders", where="shop.orders", action="make", rows=3, columns=("id", "a")
)
OUTLOOK = Outlook(where="postgresql://h/db", identity={"system": "1", "oid": 5}, tables=(TABLE,))


def plan_of(outlook: Outlook = OUTLOOK, **seen: Any) -> PlannedRestore:
    return PlannedRestore.of(does(ASKED, INTO, outlook), {"into": INTO.place, **seen})


def test_a_plan_is_read_back_as_it_was() -> None:
    plan = plan_of()
    again = read_plan(plan.body())
    assert isinstance(again, PlannedRestore)
    assert again == plan
    assert (again.asked, place_of(again), again.row_count) == (ASKED, INTO, 3)
    assert place_of(again, "postgresql://u:secret@h/db").force


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("does", "tables", 0, "rows"), 4),
        (("does", "target", "seq_end"), 300),
        (("does", "options", "force"), False),
        (("does", "sink", "oid"), 6),
        (("hash",), "0" * 64),
    ],
)
def test_an_altered_plan_is_refused(path: tuple[Any, ...], value: Any) -> None:
    document = orjson.loads(plan_of().body())
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(InvalidRequest, match="altered"):
        read_plan(orjson.dumps(document))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"does":{"kind":"restore"}}', b'{"does":1}'])
def test_what_is_no_plan_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no plan"):
        read_plan(body)


def test_the_hash_is_over_what_is_done_and_nothing_else() -> None:
    assert plan_of(notes=["a"]).hash == plan_of(notes=["b"]).hash
    more = dataclasses.replace(TABLE, rows=4)
    assert plan_of(dataclasses.replace(OUTLOOK, tables=(more,))).hash != plan_of().hash
    quieter = dataclasses.replace(OUTLOOK, problems=("no",), notes=("n",))
    assert plan_of(quieter).hash == plan_of().hash


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"action": "replace"}, "shop.orders would be replaced, not made"),
        ({"rows": 5}, "shop.orders has 5 rows, not 3"),
        ({"columns": ("id", "b")}, "the columns of shop.orders changed: a, b"),
        ({"unfit": ("c is left out",)}, "the columns of shop.orders changed"),
        ({"where": "other"}, "shop.orders would go to other, not shop.orders"),
        ({"made_from": "schema"}, "shop.orders would be made otherwise"),
        ({"collection": "x"}, "shop.orders would not be restored any more; x would be restored"),
    ],
)
def test_what_changed_is_said(found: dict[str, Any], said: str) -> None:
    other = dataclasses.replace(OUTLOOK, tables=(dataclasses.replace(TABLE, **found),))
    with pytest.raises(Conflict) as refused:
        check_same(plan_of().does, plan_of(other).does)
    assert said in str(refused.value.facts["changed"])


def test_another_place_or_another_order_is_said() -> None:
    elsewhere = dataclasses.replace(OUTLOOK, identity={"system": "1", "oid": 6})
    with pytest.raises(Conflict, match="the place is another one"):
        check_same(plan_of().does, plan_of(elsewhere).does)
    second = dataclasses.replace(TABLE, collection="b", where="b")
    one = dataclasses.replace(OUTLOOK, tables=(TABLE, second))
    two = dataclasses.replace(OUTLOOK, tables=(second, TABLE))
    with pytest.raises(Conflict, match="order of the tables"):
        check_same(plan_of(one).does, plan_of(two).does)


def test_how_the_place_is_written_does_not_matter() -> None:
    same = dataclasses.replace(OUTLOOK, where="postgresql://other-name/db")
    check_same(plan_of().does, plan_of(same).does)


def test_refusals_are_problems_and_conflicts() -> None:
    assert refusals(plan_of()) == []
    conflicts = {"counts": {"a": 2}, "examples": []}
    assert refusals(plan_of(problems=["full"], conflicts=conflicts)) == [
        "full",
        "2 rows of a are not what the log says",
    ]
    assert refusals(plan_of(problems=["full"], conflicts=conflicts), on_conflict="skip") == ["full"]
    broken = {"missing": {"count": 3, "examples": []}, "staying": {"count": 1, "examples": []}}
    assert [each[0] for each in refusals(plan_of(references=broken))] == ["3", "1"]


@pytest.mark.parametrize(
    ("place", "kind", "asks"),
    [
        ("-", "stdout", False),
        ("postgres://h/d", "postgres", True),
        ("kafka:///t", "kafka", True),
        ("out/", "files", False),
        ("file:///out", "files", False),
    ],
)
def test_places_by_their_names(place: str, kind: str, asks: bool) -> None:
    assert place_kind(place) == kind
    assert Into(place=place).changes_something is asks
    assert Into(place=place, force=True).changes_something
