"""The contract of ``Sink`` on files: exact, all or nothing, and never over what was there."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from pitr.adapters.sinks import sink_for
from pitr.adapters.sinks.files import FileSink, StdoutSink
from pitr.domain.documents import members
from pitr.domain.errors import DataLoss, InvalidRequest, SinkNotEmpty, Unavailable
from pitr.domain.outlook import Outline
from tests.fakes import FakeState

EXACT = {
    "integer past 2^64": '{"id":1,"v":340282366920938463463374607431768211456}',
    "40 digits": '{"id":1,"v":1234567890123456789012345678901234567.890}',
    "trailing zero": '{"id":1,"v":1.10}',
    "exponent": '{"id":1,"v":1E+400}',
    "nesting": '{"id":1,"v":' + '{"a":[' * 200 + "1.0" + "]}" * 200 + "}",
    "planes": '{"id":1,"v":"é 漢 𝄞 😀 \\ud83d\\ude00 \\u0000 \\u2028 \u2028"}',
    "null": '{"id":1,"v":null}',
    "absent": '{"id":1}',
    "empty string": '{"id":1,"v":""}',
    "spaces": '{ "id" : 1 , "v" : [ 1 ,\t2 ] }',
    "order": '{"v":1,"id":1,"a":2}',
    "duplicate": '{"id":1,"v":1,"v":2}',
}
KEYS = [
    '{"id":1}',
    '{"id":"a\\"b/c\\\\d\\n"}',
    '{"id":"/"}',
    '{"id":"é😀","shop":"x,y"}',
    '{"id":1.10}',
]


def ignore(_rows: int) -> None:
    """Nobody watches the progress."""


async def write(path: Path, state: FakeState, **options: object) -> object:
    return await FileSink(path, **options).write(state, progress=ignore)  # type: ignore[arg-type]


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.parametrize("document", EXACT.values(), ids=EXACT.keys())
async def test_ndjson_holds_documents_byte_for_byte(tmp_path: Path, document: str) -> None:
    await write(tmp_path / "out", FakeState({"c": [('{"id":1}', document)]}))
    [line] = lines_of(tmp_path / "out" / "c.ndjson")
    assert members(line.encode())["after"].decode() == document
    assert json.loads(line)["at"] == "1970-01-01T00:00:01.000001Z"


@pytest.mark.parametrize("document", EXACT.values(), ids=EXACT.keys())
async def test_parquet_holds_documents_byte_for_byte(tmp_path: Path, document: str) -> None:
    await write(tmp_path / "out", FakeState({"c": [('{"id":1}', document)]}), format="parquet")
    [row] = pq.read_table(tmp_path / "out" / "c.parquet").to_pylist()
    assert (row["collection"], row["key"], row["after"]) == ("c", '{"id":1}', document)
    assert (row["seq"], row["at_us"]) == (1, 1_000_001)


@pytest.mark.parametrize("form", ["ndjson", "parquet", "csv"])
async def test_every_form_holds_keys_byte_for_byte(tmp_path: Path, form: str) -> None:
    await write(tmp_path / "out", FakeState({"c": [(key, "{}") for key in KEYS]}), format=form)
    path = tmp_path / "out" / f"c.{form}"
    if form == "parquet":
        found = pq.read_table(path).column("key").to_pylist()
    elif form == "csv":
        found = [row["_key"] for row in csv.DictReader(io.StringIO(path.read_text()))]
    else:
        found = [members(line.encode())["key"].decode() for line in lines_of(path)]
    assert found == KEYS


async def test_ndjson_is_a_change_in_the_native_format(tmp_path: Path) -> None:
    await write(tmp_path / "out", FakeState({'a"b/c': [('{"id":1}', '{"id":1}')]}))
    assert lines_of(tmp_path / "out" / "a%22b%2Fc.ndjson") == [
        '{"collection":"a\\"b/c","key":{"id":1},"op":"read","after":{"id":1},'
        '"at":"1970-01-01T00:00:01.000001Z"}'
    ]


async def test_line_breaks_between_tokens_become_spaces_and_those_in_strings_stay(
    tmp_path: Path,
) -> None:
    document = '{\n  "id": 1,\r\n  "v": ["a\\nb", 1.10\n]\n}'
    await write(tmp_path / "out", FakeState({"c": [('{"id":1}', document)]}))
    [line] = lines_of(tmp_path / "out" / "c.ndjson")
    after = members(line.encode())["after"].decode()
    assert after == document.replace("\n", " ").replace("\r", " ")
    assert json.loads(after) == json.loads(document)


async def test_rows_only_leaves_key_and_time_out(tmp_path: Path) -> None:
    state = FakeState({"c": [('{"id":1}', '{"v":1.10}'), ('{"id":2}', "[2]")]})
    await write(tmp_path / "rows.ndjson", state, rows_only=True)
    assert (tmp_path / "rows.ndjson").read_text() == '{"v":1.10}\n[2]\n'
    with pytest.raises(InvalidRequest):
        FileSink(tmp_path, "csv", rows_only=True)


async def test_csv_tells_null_from_empty_and_notes_what_it_cannot_tell(tmp_path: Path) -> None:
    documents = [
        '{"a":"","n":1.10,"t":"x\\"y,z\\n","b":true}',
        '{"a":null,"o":{"k":[1, 2]},"n":18446744073709551617}',
    ]
    state = FakeState({"c": [(f'{{"id":{n}}}', text) for n, text in enumerate(documents)]})
    report = await FileSink(tmp_path / "o", "csv").write(state, progress=ignore)
    assert (tmp_path / "o" / "c.csv").read_text() == (
        '"_key","a","n","t","b","o"\n'
        '"{""id"":0}","",1.10,"x""y,z\n",true,\n'
        '"{""id"":1}",,18446744073709551617,,,"{""k"":[1, 2]}"\n'
    )
    assert len(report.notes) == 1 and "absent" in report.notes[0]


async def test_csv_names_the_document_that_has_no_members(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await write(tmp_path / "o", FakeState({"c": [('{"id":1}', "[1]")]}), format="csv")
    assert (caught.value.facts["collection"], caught.value.facts["key"]) == ("c", '{"id":1}')
    assert list(tmp_path.iterdir()) == []


async def test_a_member_called_key_does_not_hide_the_key(tmp_path: Path) -> None:
    await write(tmp_path / "o.csv", FakeState({"c": [('{"id":1}', '{"_key":2}')]}))
    assert (tmp_path / "o.csv").read_text() == '"__key","_key"\n"{""id"":1}",2\n'


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
async def test_one_file_holds_several_collections(tmp_path: Path, form: str) -> None:
    state = FakeState({name: [('{"id":1}', "{}")] for name in ("b", "a")})
    report = await FileSink(tmp_path / f"o.{form}").write(state, progress=ignore)
    assert dict(report.rows) == {"a": 1, "b": 1}
    if form == "parquet":
        assert pq.read_table(tmp_path / "o.parquet").column("collection").to_pylist() == ["a", "b"]
    else:
        found = [orjson.loads(line)["collection"] for line in lines_of(tmp_path / "o.ndjson")]
        assert found == ["a", "b"]


async def test_one_csv_file_holds_one_collection(tmp_path: Path) -> None:
    state = FakeState({name: [('{"id":1}', "{}")] for name in ("b", "a")})
    with pytest.raises(InvalidRequest):
        await write(tmp_path / "o.csv", state)


@pytest.mark.parametrize("form", ["ndjson", "parquet", "csv"])
async def test_an_empty_collection_is_an_empty_file(tmp_path: Path, form: str) -> None:
    report = await FileSink(tmp_path / "o", form).write(  # type: ignore[arg-type]
        FakeState({"c": []}), progress=ignore
    )
    assert dict(report.rows) == {"c": 0}
    path = tmp_path / "o" / f"c.{form}"
    if form == "parquet":
        assert pq.read_table(path).num_rows == 0
    else:
        assert path.read_text() == ('"_key"\n' if form == "csv" else "")


async def test_an_empty_state_is_an_empty_folder(tmp_path: Path) -> None:
    await write(tmp_path / "deep" / "o", FakeState({}))
    assert list((tmp_path / "deep" / "o").iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".hidden", "a/../b", "x" * 512, "é" * 256, "a\x00b"])
async def test_any_collection_name_makes_a_file_inside_the_folder(
    tmp_path: Path, name: str
) -> None:
    await write(tmp_path / "o", FakeState({name: [('{"id":1}', "{}")]}))
    [file] = (tmp_path / "o").iterdir()
    assert not file.name.startswith(".")
    assert orjson.loads(file.read_bytes())["collection"] == name


@pytest.mark.parametrize("target", ["o", "o.ndjson"])
@pytest.mark.parametrize("force", [False, True])
async def test_a_failure_in_the_last_collection_leaves_everything_as_it_was(
    tmp_path: Path, target: str, force: bool
) -> None:
    if force:
        await write(tmp_path / target, FakeState({"old": [('{"id":1}', "{}")]}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ndjson")}
    rows = [(f'{{"id":{number}}}', "{}") for number in range(9)]
    with pytest.raises(DataLoss):
        await write(tmp_path / target, FakeState({"a": rows, "b": rows}, fail_after=6), force=force)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ndjson")} == before
    assert [path.name for path in tmp_path.iterdir()] == ([target] if force else [])


@pytest.mark.parametrize("target", ["o", "o.ndjson"])
async def test_force_replaces_what_an_earlier_restore_wrote(tmp_path: Path, target: str) -> None:
    await write(tmp_path / target, FakeState({"old": [('{"id":1}', "{}")]}))
    with pytest.raises(SinkNotEmpty):
        await write(tmp_path / target, FakeState({"new": []}))
    await write(tmp_path / target, FakeState({"new": []}), force=True)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in written] == [b""]
    assert [path.name for path in tmp_path.iterdir()] == [target]


async def test_force_does_not_remove_what_no_restore_wrote(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(SinkNotEmpty) as caught:
        await write(tmp_path / "home", FakeState({}), force=True)
    assert caught.value.facts["found"] == "thesis.txt"
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


async def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    class Racing(FakeState):
        def rows(self, collection: str):  # type: ignore[no-untyped-def]
            (tmp_path / "o.ndjson").write_text("somebody was faster")
            return super().rows(collection)

    with pytest.raises(SinkNotEmpty):
        await write(tmp_path / "o.ndjson", Racing({"c": [('{"id":1}', "{}")]}))
    assert (tmp_path / "o.ndjson").read_text() == "somebody was faster"
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(FakeState):
        def rows(self, collection: str):  # type: ignore[no-untyped-def]
            for batch in super().rows(collection):
                yield batch
                started.set()
                go_on.wait(10)

    rows = [(f'{{"id":{number}}}', "{}") for number in range(9)]
    task = asyncio.create_task(write(tmp_path / "o", Slow({"c": rows})))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    async with asyncio.timeout(10):
        while any(tmp_path.iterdir()):
            await asyncio.sleep(0.01)


async def test_progress_counts_every_row(tmp_path: Path) -> None:
    told: list[int] = []
    rows = [(f'{{"id":{number}}}', "{}") for number in range(10)]
    state = FakeState({"a": rows, "b": rows}, batch_rows=4)
    await FileSink(tmp_path / "o").write(state, progress=told.append)
    assert sum(told) == 20


async def test_stdout_gets_one_line_a_row_in_order() -> None:
    stream = io.BytesIO()
    state = FakeState({"b": [('{"id":1}', EXACT["40 digits"])], "a": [('{"id":2}', "{}")]})
    report = await StdoutSink(stream).write(state, progress=ignore)
    lines = stream.getvalue().decode().splitlines()
    assert [orjson.loads(line)["collection"] for line in lines] == ["a", "b"]
    assert EXACT["40 digits"] in lines[1]
    assert (dict(report.rows), report.where) == ({"a": 1, "b": 1}, "-")


async def test_a_reader_that_went_away_is_unavailable() -> None:
    class Closed(io.BytesIO):
        def write(self, _lines: object) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(Unavailable):
        await StdoutSink(Closed()).write(FakeState({"a": [('{"id":1}', "{}")]}), progress=ignore)


@pytest.mark.parametrize("target", ["out", "one.parquet"])
async def test_a_look_says_what_a_write_does_and_changes_nothing(
    tmp_path: Path, target: str
) -> None:
    path, state = tmp_path / target, FakeState({"a": [('{"id":1}', "{}")], "b/c": []})
    outline = Outline(counts=state.counts)
    seen = await FileSink(path).look(outline)
    assert list(tmp_path.iterdir()) == []
    assert (seen.where, seen.identity["path"], seen.problems) == (str(path), str(path), ())
    assert [(t.collection, t.action, t.rows) for t in seen.tables] == [
        *(("a", "write", 1), ("b/c", "write", 0))
    ]
    report = await FileSink(path).write(state, progress=ignore)
    assert report.where == seen.where
    assert {Path(table.where) for table in seen.tables} == (
        set(path.iterdir()) if path.is_dir() else {path}
    )
    (problem,) = (await FileSink(path).look(outline)).problems
    assert "--force" in problem
    again = await FileSink(path, force=True).look(outline)
    assert (again.problems, {t.action for t in again.tables}) == ((), {"replace"})
    assert again.identity == seen.identity


async def test_a_look_names_what_could_never_be_written(tmp_path: Path) -> None:
    two = Outline(counts={"a": 1, "b": 1})
    assert "exactly one collection" in (await FileSink(tmp_path / "o.csv").look(two)).problems[0]
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "mine.txt").touch()
    sink = FileSink(tmp_path / "strange", force=True)
    assert "no restore wrote" in (await sink.look(two)).problems[0]
    seen = await StdoutSink(io.BytesIO()).look(two)
    assert (seen.where, len(seen.tables), seen.problems) == ("-", 2, ())


def test_the_place_chooses_the_sink(tmp_path: Path) -> None:
    assert isinstance(sink_for("-", stream=io.BytesIO()), StdoutSink)
    assert isinstance(sink_for(str(tmp_path / "o")), FileSink)
    assert isinstance(sink_for(f"file://{tmp_path}/o"), FileSink)
    assert type(sink_for("postgresql://localhost/x")).__name__ == "PostgresSink"
    for wrong in ("mysql://localhost/x", "", "s3://bucket/x"):
        with pytest.raises(InvalidRequest):
            sink_for(wrong)
