"""A search finds what a plain filter over all changes finds, wherever the changes lie."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar import encoding
from pitr.domain.columnar import search as search_module
from pitr.domain.columnar.rows import tail_table
from pitr.domain.columnar.search import Search
from pitr.domain.errors import DataLoss, PitrError
from pitr.domain.search import Found, FoundRow, Match, Query, Tally, collections_sought
from pitr.domain.where import meeting, parse_conditions
from tests.domain.columnar.builders import MEMORY_BYTES, change, segment_file

COLLECTIONS = ("shop.orders", "shop.lines", "shop_orders", "pitr.schemas")
ACTORS = (None, "user:7", "user:77", "us%r:7", "usXr:7", "ad_min\nx", "adXmin")
REASONS = (None, "POST /cart", "100% off", "100 of", "it's")
TXS = (None, "t1", "t1", "t'2", "t3")
DOCUMENTS = (None, b'{"n":1.10,"s":"a"}', b'{"n":2,"s":null}', b"[1]", b'{ "s" : "b" }')


@pytest.fixture(scope="module", autouse=True)
def low_limits() -> Iterator[None]:
    """Files of a few changes have several row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "ROW_GROUP_ROWS_MAX", 3)
        patch.setattr(search_module, "_TAIL_ROWS", 2)
        yield


@st.composite
def logs(draw: st.DrawFn) -> list[Change]:
    size = draw(st.integers(1, 24))
    return [
        change(
            seq,
            key=f'{{"id":{draw(st.integers(1, 2))}}}',
            op=draw(st.sampled_from([Op.CREATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE])),
            collection=draw(st.sampled_from(COLLECTIONS)),
            at_us=draw(st.integers(0, 3)),
            lane=draw(st.sampled_from(["http", "kafka:a:0"])),
            tx=draw(st.sampled_from(TXS)),
            actor=draw(st.sampled_from(ACTORS)),
            reason=draw(st.sampled_from(REASONS)),
            before=draw(st.sampled_from(DOCUMENTS)),
            after=draw(st.sampled_from(DOCUMENTS)),
        )
        for seq in range(1, size + 1)
    ]


FILTERS: dict[str, st.SearchStrategy[object]] = {
    "collections": st.sampled_from([("shop.*",), ("shop.orders", "pitr.*"), ("*",)]),
    "key": st.sampled_from(['{"id":1}', ""]),
    "actor": st.sampled_from(["user:7", "user:*", "*", "us%r:7", "ad_min*"]),
    "reason": st.sampled_from(["0% o", "O", "it's", ""]),
    "ops": st.sampled_from([frozenset({Op.DELETE}), frozenset({Op.CREATE, Op.UPDATE})]),
    "txs": st.sampled_from([frozenset({"t1"}), frozenset({"t'2", "x"})]),
    "lane": st.sampled_from(["kafka:*", "http"]),
    "since_us": st.sampled_from([1, 2]),
    "until_us": st.sampled_from([1, 2]),
    "where": st.lists(
        st.sampled_from(["n = 1.1", "n > 1", "s is null", "before.s = a", "after.s ~ b", "s != a"]),
        min_size=1,
        max_size=2,
    ).map(parse_conditions),
    "count_min": st.sampled_from([2, 4]),
}


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """One or two conditions, so that something is left to be found."""
    names = draw(st.lists(st.sampled_from(sorted(FILTERS)), max_size=2, unique=True))
    given: dict[str, Any] = {name: draw(FILTERS[name]) for name in names}
    limit = draw(st.sampled_from([20, 20, 2]))
    return Query(limit=limit, oldest_first=draw(st.booleans()), **given)


def fits(pattern: str | None, text: str | None) -> bool:
    if pattern is None:
        return True
    return text is not None and bool(
        re.fullmatch(re.escape(pattern).replace(r"\*", "(?s:.*)"), text)
    )


def matches_naively(query: Query, row: Change) -> bool:
    patterns = query.collections or ("*",)
    own = row.collection.startswith("pitr.")
    return (
        any(fits(p, row.collection) and (not own or p.startswith("pitr.")) for p in patterns)
        and query.key in (None, row.key)
        and fits(query.actor, row.actor)
        and fits(query.lane, row.lane)
        and (query.reason is None or (row.reason is not None and query.reason in row.reason))
        and (not query.ops or row.op in query.ops)
        and (not query.txs or row.tx in query.txs)
        and (query.since_us is None or row.at_us >= query.since_us)
        and (query.until_us is None or row.at_us <= query.until_us)
        and meeting(query.where)(row.before, row.after)
    )


def naive(changes: Sequence[Change], query: Query, *, without_tx: frozenset[str]) -> Found:
    """Filter everything, group it, sort it."""
    rows = [c for c in changes if c.tx not in without_tx and matches_naively(query, c)]
    groups: dict[object, list[Change]] = {}
    for row in rows:
        groups.setdefault(row.seq if row.tx is None else row.tx, []).append(row)
    found = [match_of(group) for group in groups.values() if len(group) >= query.count_min]
    found.sort(key=lambda match: match.seq_first, reverse=not query.oldest_first)
    return Found(
        matches=tuple(found[: query.limit]), match_count=len(found), change_count=len(rows)
    )


def match_of(rows: list[Change]) -> Match:
    actors = [row.actor for row in rows if row.actor is not None]
    reasons = [row.reason for row in rows if row.reason is not None]
    counts = Counter((row.collection, row.op) for row in rows)
    tallies = [Tally(collection=c, op=op, count=count) for (c, op), count in counts.items()]
    return Match(
        tx=rows[0].tx,
        seq_first=rows[0].seq,
        seq_end=rows[-1].seq + 1,
        at_min_us=min(row.at_us for row in rows),
        at_max_us=max(row.at_us for row in rows),
        actor=next(iter(actors), None),
        actor_count=len(set(actors)),
        reason=next(iter(reasons), None),
        reason_count=len(set(reasons)),
        tallies=tuple(sorted(tallies, key=lambda t: (-t.count, t.collection, t.op))),
        examples=tuple(
            FoundRow(seq=row.seq, collection=row.collection, op=row.op, key=row.key)
            for row in rows[:3]
        ),
    )


def searched(
    folder: Path,
    paths: Sequence[Path],
    tail: Sequence[Change],
    query: Query,
    *,
    without_tx: frozenset[str] = frozenset(),
    known: Sequence[str] = COLLECTIONS,
) -> Found:
    search = Search(
        paths,
        tail_table(tail),
        query,
        collections=collections_sought(known, query.collections),
        without_tx=without_tx,
        memory_bytes=MEMORY_BYTES,
        spill_folder=folder,
        threads=1,
    )
    try:
        return search.run()
    finally:
        search.close()


@settings(max_examples=40)
@given(
    logs(),
    st.tuples(st.integers(0, 24), st.integers(0, 24)),
    queries(),
    st.sampled_from([frozenset(), frozenset(), frozenset({"t3"})]),
)
def test_a_search_finds_what_a_plain_filter_finds(
    changes: list[Change], cuts: tuple[int, int], query: Query, without_tx: frozenset[str]
) -> None:
    first, second = sorted(cuts)
    parts = [changes[:first], changes[first:second]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [segment_file(folder, part) for part in parts if part]
        found = searched(folder, paths, changes[second:], query, without_tx=without_tx)
    assert found == naive(changes, query, without_tx=without_tx)


def test_documents_are_read_only_where_a_condition_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    real = search_module._read

    def spied(file: object, number: int, columns: list[str]) -> object:
        read.append(columns)
        return real(file, number, columns)

    monkeypatch.setattr(search_module, "_read", spied)
    rows = [change(seq, f'{{"id":{seq}}}', actor="a" if seq == 5 else None) for seq in range(1, 10)]
    paths = [segment_file(tmp_path, rows)]
    assert searched(tmp_path, paths, [], Query(actor="a")).change_count == 1
    assert read == []
    where = parse_conditions(["id = 1"])
    assert searched(tmp_path, paths, [], Query(actor="a", where=where)).change_count == 1
    assert read == [["seq"], ["seq"], ["seq", "before", "after"], ["seq"]]


@pytest.mark.parametrize("where", [[], ["id = 1"]])
def test_a_damaged_file_is_data_loss(tmp_path: Path, where: list[str]) -> None:
    path = segment_file(tmp_path, [change(seq) for seq in range(1, 4)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataLoss):
        searched(tmp_path, [path], [], Query(where=parse_conditions(where)))


def test_an_interrupted_search_ends(tmp_path: Path) -> None:
    query = Query(where=parse_conditions(["id = 1"]))
    paths = [segment_file(tmp_path, [change(1)])]
    search = Search(
        paths,
        tail_table([]),
        query,
        collections=frozenset({"shop.orders"}),
        memory_bytes=MEMORY_BYTES,
        spill_folder=tmp_path,
        threads=1,
    )
    search.interrupt()
    with pytest.raises(PitrError, match="ended"):
        search.run()
    search.close()
    assert [each for each in tmp_path.iterdir() if each.is_dir()] == []


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        (Query(since_us=2, until_us=3), [2, 3]),
        (Query(actor="a_b"), [1]),
        (Query(actor="a%"), []),
        (Query(actor="a*b"), [1, 2]),
        (Query(actor="\\"), [3]),
        (Query(reason="5%"), [1]),
        (Query(collections=("*",)), [1, 2, 3]),
        (Query(collections=("pitr.*",)), [4]),
        (Query(collections=("pitr.*", "*")), [1, 2, 3, 4]),
    ],
)
def test_edges(tmp_path: Path, query: Query, seqs: list[int]) -> None:
    rows = [
        change(1, actor="a_b", reason="5%"),
        change(2, actor="axb", reason="50"),
        change(3, actor="\\"),
        change(4, actor="%b", collection="pitr.schemas"),
    ]
    known = ["shop.orders", "pitr.schemas"]
    found = searched(tmp_path, [segment_file(tmp_path, rows)], [], query, known=known)
    assert sorted(match.seq_first for match in found.matches) == seqs
    assert found == naive(rows, query, without_tx=frozenset())
