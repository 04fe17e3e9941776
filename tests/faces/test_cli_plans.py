"""Plans on the command line: shown, written, applied exactly or refused, asked for, recorded."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.domain.restore_plan import PlannedRestore
from tests.faces.cli_tools import Place, lines, one_object, order, pitr, start
from tests.faces.test_cli_docs import undocumented

TABLE = "public.orders"


class Shop(Place):
    """A log of 30 orders of three tenants, of which transaction ``oops`` spoilt ten."""

    url = ""
    folder = Path()

    def sql(self, statement: str) -> list[Any]:
        """Run SQL in the database that is restored into."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(run())

    def statuses(self) -> dict[str, int]:
        """How many rows of the table have each status."""
        query = f"SELECT status, count(*) FROM {TABLE} GROUP BY status"
        return dict(self.sql(query))

    def plan(self, *args: str, code: int = 0) -> Path:
        """Plan into the database, and write the plan."""
        path = self.folder / f"{uuid4().hex}.json"
        given = args if "--into" in args else (*args, "--into", self.url)
        result = self.run("plan", *given, "-o", str(path))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return path

    def operations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document("operations")["operations"]
        return found


def row(number: int, at: str, status: str, **more: Any) -> dict[str, Any]:
    after = {"id": number, "status": status, "tenant": f"t{number % 3}"}
    return order(number, at, collection=TABLE, after=after, **more)


@pytest.fixture(scope="module")
def server(short_folder: Path) -> Iterator[EmbeddedPostgres]:
    folder = short_folder / "plans"
    server = asyncio.run(EmbeddedPostgres.start(folder / "postgres"))
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def shop(server: EmbeddedPostgres, tmp_path: Path) -> Shop:
    name = f"shop_{uuid4().hex[:12]}"
    shop = Shop(server.folder.parent, f"log-{uuid4().hex[:12]}")
    object.__setattr__(shop, "url", asyncio.run(server.ensure_database(name)))
    object.__setattr__(shop, "folder", tmp_path)
    shop.ingest([row(n, "09:00:00", "new") for n in range(30)])
    spoilt = {"op": "update", "tx": "oops", "actor": "bob", "reason": "bad job"}
    shop.ingest([row(n, "10:00:00", "broken", **spoilt) for n in range(10)])
    return shop


OOPS = ("--before-tx", "oops")


def test_a_plan_is_shown_written_and_applied(shop: Shop) -> None:
    text = shop.done("plan", *OOPS, "--into", shop.url)
    for said in (
        *("exactly on a change", "every change below seq 31", "tx oops by bob for bad job"),
        *("make from documents", "public.orders", "to read and compare", "2026-03-01"),
    ):
        assert said in text, said
    path = shop.plan(*OOPS, "--reason", "look")
    shown = json.loads(path.read_bytes())
    assert f"plan {shown['hash']}" in text
    shop.done("compact")  # what is read becomes another object, the state does not
    report = shop.document("apply", str(path), "--yes", "--reason", "drill")
    assert (report["rows"], report["plan"]) == ({TABLE: 30}, shown["hash"])
    assert shop.statuses() == {"new": 30}
    done, planned, *_ = shop.operations()
    assert (done["kind"], done["outcome"], done["reason"]) == ("restore", "done", "drill")
    assert done["detail"]["plan"] == shown["hash"]
    assert (planned["kind"], planned["reason"]) == ("plan", "look")
    assert planned["detail"]["rows"] == {TABLE: 30}
    one = shop.document("operations", done["id"][:12])
    assert one["id"] == done["id"]
    assert "before-tx:oops" in shop.done("operations")
    assert shop.run("operations", "nope").exit_code == 3


def test_an_altered_plan_is_refused(shop: Shop) -> None:
    path = shop.plan(*OOPS)
    path.write_bytes(path.read_bytes().replace(b'"seq_end":31', b'"seq_end":30'))
    result = shop.run("apply", str(path), "--yes")
    assert (result.exit_code, "altered" in result.stderr) == (2, True)
    path.write_bytes(b"nonsense")
    assert shop.run("apply", str(path), "--yes").exit_code == 2
    assert shop.run("apply", str(shop.folder / "none"), "--yes").exit_code == 3
    assert shop.sql("SELECT 1 FROM pg_class WHERE relname = 'orders'") == []


def test_a_plan_that_does_not_hold_says_what_changed(shop: Shop) -> None:
    path = shop.plan(*OOPS)
    shop.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, status text, tenant text)")
    result = shop.run("apply", str(path), "--yes", "--json")
    assert result.exit_code == 4
    changed = one_object(result.stdout)["error"]["facts"]["changed"]
    assert "public.orders would be filled, not made" in changed
    assert shop.statuses() == {}
    failed = shop.operations()[0]
    assert (failed["kind"], failed["outcome"]) == ("restore", "failed")
    plan = json.loads(path.read_bytes())
    plan = PlannedRestore.of(plan["does"] | {"log_id": "another"}, plan["seen"])
    path.write_bytes(plan.body())
    result = shop.run("apply", str(path), "--yes")
    assert (result.exit_code, "another log" in result.stderr) == (4, True)


def test_a_plan_that_would_be_refused_says_why_and_is_written(shop: Shop) -> None:
    shop.done("restore", "--latest", "--into", shop.url, "--yes")
    path = shop.plan(*OOPS, code=4)
    problems = json.loads(path.read_bytes())["seen"]["problems"]
    assert "--force" in problems[0]
    result = shop.run("apply", str(path), "--yes")
    assert (result.exit_code, shop.statuses()) == (4, {"new": 20, "broken": 10})
    shop.done("apply", str(shop.plan(*OOPS, "--force")), "--yes")
    assert shop.statuses() == {"new": 30}
    both = {"tx": "both", "op": "update"}
    cart = order(1, "11:00:00", collection="public.carts", **both)
    shop.ingest([row(1, "11:00:00", "x", **both), cart])
    path = shop.plan("--before-tx", "both", "--force", "-c", TABLE)
    assert json.loads(path.read_bytes())["seen"]["torn"] == {"count": 1, "examples": ["both"]}
    assert shop.run("plan", *OOPS, "--into", shop.url, "-c", "nope").exit_code == 3
    refused = shop.operations()[0]
    assert (refused["kind"], refused["outcome"]) == ("plan", "failed")
    assert refused["detail"]["error"] == "not_found"


def test_without_a_terminal_nothing_that_exists_is_changed_unasked(shop: Shop) -> None:
    path = shop.plan(*OOPS)
    for args in (
        ["restore", *OOPS, "--into", shop.url],
        ["restore", *OOPS, "--into", str(shop.folder), "--force"],
        ["apply", str(path)],
        ["undo", "x"],
        ["revert-tx", "oops", "--into", shop.url],
    ):
        result = shop.run(*args)
        assert (result.exit_code, result.stdout) == (2, ""), args
        assert "hint: " in result.stderr and "--yes" in result.stderr
    assert [each["kind"] for each in shop.operations()] == ["plan"]


def test_the_question_is_asked_and_only_a_yes_is_one(shop: Shop) -> None:
    def answered(answer: bytes) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        args = ("restore", *OOPS, "--into", shop.url, *shop.options)
        process = start(*args, stdin=theirs, stderr=theirs)
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        os.write(ours, answer)
        stdout, _ = process.communicate(timeout=60)
        os.close(ours)
        return process.returncode, stdout.decode()

    assert answered(b"n\n") == (0, "")
    assert shop.sql("SELECT 1 FROM pg_class WHERE relname = 'orders'") == []
    assert (shop.operations()[0]["kind"], shop.operations()[0]["outcome"]) == ("plan", "done")
    code, stdout = answered(b"yes\n")
    assert (code, shop.statuses()) == (0, {"new": 30})
    assert "restored 30 rows" in stdout


def test_rows_are_chosen_by_condition_and_by_a_file_of_keys(shop: Shop) -> None:
    def restored(*args: str) -> set[int]:
        out = shop.done("restore", *OOPS, "--into", "-", "--rows-only", *args)
        return {json.loads(each)["id"] for each in out.splitlines()}

    assert restored("--where", "tenant = t1", "--where", "id < 9") == {1, 4, 7}
    keys = shop.folder / "keys.ndjson"
    named = [{"collection": TABLE, "key": 3}, {"collection": TABLE, "key": {"id": 5}}]
    keys.write_bytes(lines(named) + b"\n")
    assert restored("--keys-from", str(keys)) == {3, 5}
    assert restored("--keys-from", str(keys), "--key", f"{TABLE}=6") == {3, 5, 6}
    keys.write_bytes(b'{"collection":"x"}\n')
    for args in (
        *(["--keys-from", str(keys)], ["--where", "before.id = 1"], ["--where", "nonsense"]),
        *(["--scan"], ["--with-references"], ["--gone", "drop"], ["--mode", "rewind"]),
    ):
        result = shop.run("restore", *OOPS, "--into", str(shop.folder / "o"), *args, "--yes")
        assert result.exit_code == 2, (args, result.stderr)
    path = shop.plan(*OOPS, "--where", "tenant = t1")
    assert shop.document("apply", str(path), "--yes")["rows"] == {TABLE: 10}


def test_a_rewind_is_planned_applied_and_undone(shop: Shop) -> None:
    shop.done("restore", "--latest", "--into", shop.url, "--yes")
    path = shop.plan(*OOPS, "--mode", "rewind")
    text = shop.done("plan", *OOPS, "--mode", "rewind", "--into", shop.url)
    assert "UPDATE" in text and "tx oops by bob" in text
    done = shop.document("apply", str(path), "--yes", "--reason", "job")
    assert done["rows"] == {TABLE: {"insert": 0, "update": 10, "delete": 0}}
    assert shop.statuses() == {"new": 30}
    copied = shop.url.replace("/shop_", "/copy_of_shop_")
    ((name,),) = shop.sql("SELECT current_database()")
    shop.sql(f"CREATE DATABASE copy_of_{name} TEMPLATE {name}")
    result = shop.run("undo", done["operation_id"], "--yes", "--into", copied)
    assert (result.exit_code, "not the database" in result.stderr) == (2, True), result.stderr
    undone = shop.document("undo", done["operation_id"], "--yes")
    assert (undone["kind"], shop.statuses()) == ("undo", {"new": 20, "broken": 10})
    assert shop.run("undo", "nope", "--yes").exit_code == 3

    result = shop.run("revert-tx", "oops", "--into", shop.url, "--plan-only", "--json")
    assert (result.exit_code, shop.statuses()["broken"]) == (0, 10)
    assert undocumented(_plain(one_object(result.stdout))) == set()
    reverted = shop.document("revert-tx", "oops", "--into", shop.url, "--yes")
    assert (reverted["kind"], shop.statuses()) == ("revert", {"new": 30})
    kinds = [(each["kind"], each["outcome"]) for each in shop.operations()]
    assert kinds[:2] == [("revert", "done"), ("plan", "done")]
    assert {kind for kind, _ in kinds} == {"restore", "plan", "rewind", "undo", "revert"}
    assert undocumented(_plain(undone)) == undocumented(_plain(reverted)) == set()


def test_conflicts_are_refused_until_it_is_said_what_becomes_of_them(shop: Shop) -> None:
    shop.done("restore", "--latest", "--into", shop.url, "--yes")
    shop.sql(f"UPDATE {TABLE} SET status = 'by hand' WHERE id = 3")
    path = shop.plan(*OOPS, "--mode", "rewind", code=4)
    text = shop.run("plan", *OOPS, "--mode", "rewind", "--into", shop.url).stdout
    assert "CONFLICTS: 1 row of public.orders" in text
    assert '{"id":3}' in text and "--on-conflict" in text
    assert shop.run("apply", str(path), "--yes").exit_code == 4
    assert shop.statuses()["by hand"] == 1
    done = shop.document("apply", str(path), "--yes", "--on-conflict", "skip")
    assert [each["key"] for each in done["conflicts"]] == ['{"id":3}']
    assert shop.statuses() == {"new": 29, "by hand": 1}


def test_missing_references_are_named_and_brought_along(shop: Shop) -> None:
    lines_of = {"id": 7, "order_id": 3}
    shop.ingest([order(7, collection="public.lines", after=lines_of)])
    shop.done("restore", "--latest", "--into", shop.url, "--yes")
    gone = {"tx": "gone", "op": "delete"}
    deletes = [order(7, collection="public.lines", **gone), order(3, collection=TABLE, **gone)]
    shop.ingest(deletes)
    shop.sql("DELETE FROM public.lines")
    shop.sql(f"DELETE FROM {TABLE} WHERE id = 3")
    shop.sql(f"ALTER TABLE public.lines ADD FOREIGN KEY (order_id) REFERENCES {TABLE} (id)")
    asked = ("--before-tx", "gone", "--mode", "rewind", "-c", "public.lines")
    path = shop.plan(*asked, code=4)
    text = shop.run("plan", *asked, "--into", shop.url).stdout
    assert "MISSING: 1 reference" in text and f"{TABLE} (id) = (3)" in text
    assert "TORN: 1 transaction" in text and "gone" in text
    assert shop.run("apply", str(path), "--yes").exit_code == 4
    brought = shop.plan(*asked, "--with-references")
    done = shop.document("apply", str(brought), "--yes")
    assert done["rows"]["public.lines"]["insert"] == done["rows"][TABLE]["insert"] == 1
    assert shop.sql("SELECT order_id FROM public.lines") == [(3,)]


def test_tables_are_swapped_and_the_old_ones_dropped(shop: Shop) -> None:
    shop.done("restore", "--latest", "--into", shop.url, "--yes")
    path = shop.plan(*OOPS, "--mode", "swap")
    assert [each["action"] for each in json.loads(path.read_bytes())["does"]["tables"]] == ["swap"]
    shop.done("apply", str(path), "--yes")
    assert shop.statuses() == {"new": 30}
    listed = shop.document("swapped", "--into", shop.url)
    assert undocumented(listed) == set()
    (swap,) = listed["swapped"]
    (table,) = swap["tables"]
    assert table["table"] == TABLE
    assert swap["swap_id"] == json.loads(path.read_bytes())["seen"]["swap_id"]
    assert shop.run("apply", str(path), "--yes").exit_code == 4
    assert shop.sql(f"SELECT count(*) FROM {table['old']} WHERE status = 'broken'") == [(10,)]
    assert table["old"] in shop.done("swapped", "--into", shop.url)
    drop = ("swapped", "--into", shop.url, "--drop", swap["swap_id"])
    assert shop.run(*drop).exit_code == 2
    assert shop.document(*drop, "--yes")["dropped"] == [table["old"]]
    assert shop.run(*drop, "--yes").exit_code == 3
    assert shop.done("swapped", "--into", shop.url) == ""
    for whole in (["--mode", "swap", "--where", "id < 3"], ["--force", "--key", f"{TABLE}=3"]):
        result = shop.run("plan", *OOPS, "--into", shop.url, *whole)
        assert (result.exit_code, "whole tables" in result.stderr) == (2, True)


def test_the_password_is_in_no_plan_and_can_be_said_again(shop: Shop) -> None:
    secret = shop.url.replace("postgres@", "postgres:s3cret@")
    path = shop.plan(*OOPS, "--into", secret)
    assert b"s3cret" not in path.read_bytes()
    assert "s3cret" not in json.dumps(shop.operations())
    shop.done("apply", str(path), "--yes", env={"PITR_INTO": secret})
    assert shop.statuses() == {"new": 30}
    assert "s3cret" not in json.dumps(shop.operations())


def test_every_field_of_a_plan_is_documented(shop: Shop) -> None:
    plan = shop.document("plan", *OOPS, "--into", shop.url)
    assert undocumented(_plain(plan)) == set()
    report = shop.document("restore", *OOPS, "--into", str(shop.folder / "files"))
    assert undocumented(_plain(report)) == set()
    assert report["target"]["next"]["tx"] == "oops"
    missing = pitr("plan", "--latest", "--data", str(shop.data))
    assert (missing.exit_code, "--into" in missing.stderr) == (2, True)


def _plain(document: Any) -> Any:
    """Leave out what the data chose."""
    if isinstance(document, dict):
        hidden = ("counts", "rows", "settled", "lanes", "without_tx", "brought")
        return {n: None if n in hidden else _plain(v) for n, v in document.items()}
    if isinstance(document, list):
        return [_plain(each) for each in document]
    return document
