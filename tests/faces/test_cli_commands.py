"""Every command on a real log: what it prints, and that ``--json`` prints one object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pitr.adapters.embedded import EmbeddedPostgres
from tests.faces.cli_tools import Place, lines, one_object, order, pitr
from tests.faces.test_cli_docs import undocumented


@pytest.fixture(scope="module")
def data(short_folder: Path) -> Iterator[Path]:
    """A data folder whose PostgreSQL runs for the whole module, so that each command is quick."""
    folder = short_folder / "cli"
    server = asyncio.run(EmbeddedPostgres.start(folder / "postgres"))
    yield folder
    asyncio.run(server.stop())


@pytest.fixture
def place(data: Path) -> Place:
    return Place(data, f"log-{uuid4().hex[:12]}")


@pytest.fixture
def shop(place: Place) -> Place:
    """Order 1 is made, paid and deleted, order 2 made; two of the changes are one transaction."""
    place.ingest(
        [
            order(1, "09:00:01.000001", actor="user:7", reason="POST /cart"),
            order(1, "09:00:02.0", after={"id": 1, "status": "paid", "sum": 9.5}, tx="t1"),
            order(2, "09:00:02.0", tx="t1"),
            order(1, "09:00:03.0", op="delete", actor="admin"),
            order(9, "09:00:04.0", collection="shop.carts"),
        ]
    )
    return place


# Ingest


def test_ingest_stores_each_change_once(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_bytes(lines([order(1), order(2)]))
    first = place.document("ingest", str(file))
    assert (first["lines"], first["stored"], first["seq_first"], first["seq_end"]) == (2, 2, 1, 3)

    file = file.rename(tmp_path / "renamed.ndjson")
    again = place.document("ingest", str(file))
    assert (again["lines"], again["skipped_lines"], again["stored"]) == (2, 2, 0)

    with file.open("ab") as grown:
        grown.write(lines([order(3)]))
    assert "stored       1 change, seq 3 to 3" in place.done("ingest", str(file))
    assert place.document("status", place.log)["change_count"] == 3


def test_ingest_says_loudly_what_it_could_not_read_and_still_succeeds(place: Place) -> None:
    body = lines([order(1)]) + b"{nonsense\n" + lines([{"collection": "c", "after": {}}])
    result = place.run("ingest", "-", "--json", body=body)
    assert result.exit_code == 0
    report = one_object(result.stdout)
    assert report["stored"] == 1
    assert report["quarantined_count"] == 2
    assert sum(report["quarantined_reasons"].values()) == 2
    assert "WARNING: 2 lines could not be read" in result.stderr
    assert "hint: pitr quarantine list" in result.stderr


def test_ingest_takes_key_columns_for_debezium_records_without_a_key(place: Place) -> None:
    source = {"schema": "shop", "table": "orders", "ts_ms": 1_772_357_400_000}
    record = {"op": "c", "after": {"tenant": "a", "no": 1}, "source": source, "ts_ms": 1}
    args = ("ingest", "-", "--format", "debezium", "--key-columns", "tenant, no")
    assert place.document(*args, body=lines([record]))["stored"] == 1
    row = place.done("show", "shop.orders", '{"tenant":"a","no":1}')
    assert row == '{"tenant": "a", "no": 1}\n'


# Status, tail


def test_status_tells_of_one_log_or_of_all(shop: Place) -> None:
    one = shop.document("status", shop.log)
    assert (one["log"], one["change_count"]) == (shop.log, 5)
    everything = one_object(pitr("status", "--json", "--data", str(shop.data)).stdout)
    assert shop.log in [each["log"] for each in everything["logs"]]
    assert "changes     5, the newest at 2026-03-01T09:00:04.000000Z" in shop.done("status")


def test_a_log_that_does_not_exist_is_not_found_and_not_made(shop: Place) -> None:
    nowhere = Place(shop.data, "nowhere")
    for args in (
        ["status"],
        ["status", "nowhere"],
        ["tail"],
        ["verify"],
        ["mark"],
        ["operations"],
        ["sources"],
        ["detach", "shop"],
        ["quarantine"],
        ["compact"],
        ["snapshot"],
        ["describe", "latest"],
        ["find"],
        ["history", "c", "1"],
        ["show", "c", "1"],
        ["restore", "--to", "latest", "--dry-run"],
    ):
        result = nowhere.run(*args)
        assert result.exit_code == 3, (args, result.stdout, result.stderr)
    everything = one_object(pitr("status", "--json", "--data", str(shop.data)).stdout)
    assert "nowhere" not in [each["log"] for each in everything["logs"]]


def test_tail_shows_the_newest_changes_in_order(shop: Place) -> None:
    assert [each["seq"] for each in shop.document("tail", "-n", "2")["changes"]] == [4, 5]
    assert [each["seq"] for each in shop.document("tail")["changes"]] == [1, 2, 3, 4, 5]
    assert shop.document("tail", "-n", "0")["changes"] == []
    only = shop.document("tail", "-n", "2", "-c", "shop.orders")["changes"]
    assert [each["seq"] for each in only] == [3, 4]
    text = shop.done("tail").splitlines()
    assert text[0].split()[:3] == ["SEQ", "AT", "COLLECTION"]
    assert text[4].split() == [
        *("4", "2026-03-01T09:00:03.000000Z", "shop.orders", '{"id":1}', "delete", "-", "admin"),
        "-",
    ]


def test_tail_reads_sealed_changes_and_the_tail_alike(shop: Place) -> None:
    shop.done("compact")
    shop.ingest([order(n, "10:00:00") for n in (5, 6)])
    found = shop.document("tail", "-n", "4")["changes"]
    assert [each["seq"] for each in found] == [4, 5, 6, 7]
    only = shop.document("tail", "-n", "9", "-c", "shop.carts")["changes"]
    assert [each["seq"] for each in only] == [5]


# History, show


def test_history_tells_who_when_why_and_from_what_to_what(shop: Place) -> None:
    document = shop.document("history", "shop.orders", "1")
    assert [each["seq"] for each in document["changes"]] == [4, 2, 1]
    deleted, paid, made = document["changes"]
    assert deleted["actor"] == "admin"
    assert deleted["after"] is None
    assert paid["tx"] == "t1"
    assert paid["fields"] == [
        {"name": "status", "before": "new", "after": "paid"},
        {"name": "sum", "after": 9.5},
    ]
    assert (made["before"], made["reason"]) == (None, "POST /cart")
    text = shop.done("history", "shop.orders", "1", "--limit", "2")
    assert "seq 2  2026-03-01T09:00:02.000000Z  " in text
    assert '    status: "new" → "paid"' in text
    assert "    sum: absent → 9.5" in text
    assert "seq 1 " not in text


def test_history_at_a_moment_leaves_out_what_came_later(shop: Place) -> None:
    found = shop.document("history", "shop.orders", "1", "--at", "2026-03-01T09:00:02.5Z")
    assert [each["seq"] for each in found["changes"]] == [2, 1]
    torn = shop.document("history", "shop.orders", "1", "--at", "seq:2")
    assert [each["seq"] for each in torn["changes"]] == [1]


def test_exact_bytes_come_back_in_text_and_json(place: Place) -> None:
    body = '{ "id" : 1, "n": 1.10, "big": 123456789012345678901234567890.10, "s": "\\u00e9" }'
    change = f'{{"collection":"c","key":1,"after":{body}}}\n'.encode()
    place.done("ingest", "-", body=change)
    assert place.done("show", "c", "1") == body + "\n"
    assert body in place.done("show", "c", "1", "--json")
    assert '"after":123456789012345678901234567890.10' in place.done("history", "c", "1", "--json")
    assert place.done("show", "c") == body + "\n"


def test_show_prints_the_row_of_a_moment(shop: Place) -> None:
    assert json.loads(shop.done("show", "shop.orders", "1", "--at", "seq:1"))["status"] == "new"
    at = ("--at", "2026-03-01T09:00:02Z")
    assert json.loads(shop.done("show", "shop.orders", "1", *at))["status"] == "paid"
    document = shop.document("show", "shop.orders", "1", *at)
    assert document["row"]["status"] == "paid"
    assert document["changed_by"]["seq"] == 2
    assert document["resolution"]["position"] == "exact"


def test_show_says_what_is_wrong_when_there_is_no_row(shop: Place) -> None:
    gone = shop.run("show", "shop.orders", "1")
    assert gone.exit_code == 3
    assert gone.stdout == ""
    assert "hint: pitr history shop.orders" in gone.stderr
    never = shop.run("show", "shop.orders", "77")
    assert never.exit_code == 3
    assert 'hint: keys there look like {"id":' in never.stderr
    assert "no such collection" in shop.run("show", "nope", "1").stderr
    assert shop.run("history", "shop.orders", "77").exit_code == 3


def test_show_lists_rows_in_key_order_up_to_a_limit(place: Place) -> None:
    place.ingest([order(n) for n in range(1, 8)])
    assert len(place.done("show", "shop.orders").splitlines()) == 7
    some = place.run("show", "shop.orders", "--limit", "3", "--json")
    document = one_object(some.stdout)
    assert [row["key"]["id"] for row in document["rows"]] == [1, 2, 3]
    assert document["row_count"] == 7
    assert "3 of 7 rows" in some.stderr


def test_control_characters_in_data_never_reach_the_terminal(place: Place) -> None:
    place.ingest([order(1, actor="\x1b[2Jevil\nseq 99", reason="\x07")])
    text = place.done("tail") + place.done("history", "shop.orders", "1")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert not any(line.startswith("seq 99") for line in text.splitlines())


# Targets and marks


def test_describe_names_position_neighbours_and_torn_transactions(shop: Place) -> None:
    between = shop.document("describe", "2026-03-01T09:00:02.5Z")
    assert between["position"] == "between"
    assert (between["previous"]["seq"], between["next"]["seq"]) == (3, 4)
    assert shop.document("describe", "2026-03-01T09:00:00Z")["position"] == "past"
    assert shop.document("describe", "2026-03-01T09:00:02Z")["position"] == "exact"
    assert shop.document("describe", "now")["position"] == "between"
    torn = shop.document("describe", "seq:2")
    assert torn["without_tx"] == ["t1"]
    text = shop.done("describe", "seq:2")
    assert "left out   whole transactions that the target would tear: t1" in text
    assert shop.document("describe", "before-tx:t1")["seq_end"] == 2


def test_a_time_without_a_zone_is_refused_with_both_readings(shop: Place) -> None:
    result = shop.run("describe", "2026-03-01T09:00:02")
    assert result.exit_code == 2
    assert "2026-03-01T09:00:02.000000Z (UTC)" in result.stderr
    assert "(local)" in result.stderr


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("yesterday", 2),
        ("42", 2),
        ("mark:none", 3),
        ("before-tx:none", 3),
    ],
)
def test_a_target_that_means_nothing_is_refused(shop: Place, target: str, code: int) -> None:
    result = shop.run("describe", target, "--json")
    assert result.exit_code == code
    assert one_object(result.stdout)["error"]["hint"]


@pytest.mark.parametrize("target", ["seq:999", "2099-01-01T00:00:00Z"])
def test_a_target_ahead_of_the_log_is_described_but_nothing_else(shop: Place, target: str) -> None:
    result = shop.run("describe", target, "--json")
    found = one_object(result.stdout)
    assert (result.exit_code, found["position"], found["previous"]["seq"]) == (0, "future", 5)
    assert "--wait" in result.stderr
    assert "in the future: ahead of what is captured" in shop.done("describe", target)
    refused = shop.run("show", "shop.orders", "2", "--at", target, "--json")
    assert refused.exit_code == 4
    assert one_object(refused.stdout)["error"]["code"] == "target_beyond_watermark"


def test_describe_tells_of_the_transactions_on_both_sides(shop: Place) -> None:
    shop.ingest([order(n, "09:00:05.0", op="delete", tx="t2", actor="ops:jo") for n in (2, 9)])
    found = shop.document("describe", "--before-tx", "t2")
    assert found["previous_transaction"] is None
    gone = found["next_transaction"]
    assert (gone["tx"], gone["actor"], gone["change_count"]) == ("t2", "ops:jo", 2)
    assert gone["changes"] == [{"collection": "shop.orders", "op": "delete", "count": 2}]
    text = shop.done("describe", "before-tx:t2")
    assert "shop.orders 2 delete" in text
    assert shop.document("describe", "latest")["previous_transaction"] == gone


def test_the_moment_can_be_said_in_short(shop: Place) -> None:
    for short, target in (
        (["--before-tx", "t1"], "before-tx:t1"),
        (["--before-seq", "3"], "before-seq:3"),
        (["--latest"], "latest"),
    ):
        found, same = shop.document("describe", *short), shop.document("describe", target)
        assert (found["target"], found["seq_end"]) == (target, same["seq_end"])
    assert len(shop.done("restore", "--before-seq", "4", "--into", "-").splitlines()) == 2
    assert json.loads(shop.done("show", "shop.orders", "1", "--before-tx", "t1"))["status"] == "new"
    history = shop.document("history", "shop.orders", "1", "--before-seq", "2")
    assert [each["seq"] for each in history["changes"]] == [1]
    assert shop.document("mark", "m", "--before-tx", "t1")["seq_end"] == 2


def test_the_moment_is_said_once(place: Place) -> None:
    for args in (
        ["describe"],
        ["describe", "latest", "--latest"],
        ["describe", "--before-seq", "0"],
        ["describe", "--before-tx", ""],
        ["restore", "--into", "-"],
        ["restore", "--to", "now", "--before-seq", "2", "--into", "-"],
        ["show", "shop.orders", "1", "--before-tx", "t1", "--latest"],
        ["mark", "--latest"],
    ):
        result = place.run(*args)
        assert (result.exit_code, result.stdout) == (2, ""), (args, result.stderr)
        assert "hint: " in result.stderr


def test_find_names_who_did_it_and_the_moment_before(shop: Place) -> None:
    rows = [order(n, "09:00:05.0", op="delete", tx="oops 1", actor="ops:jo") for n in range(40)]
    shop.ingest(rows)
    shop.ingest([order(2, after={"id": 2, "sum": 7.50})])
    found = shop.document("find", "--op", "delete", "--min", "40")
    assert (found["match_count"], found["change_count"]) == (1, 41)
    (match,) = found["matches"]
    assert (match["actor"], match["reason"], match["change_count"]) == ("ops:jo", None, 40)
    assert [row["key"]["id"] for row in match["examples"]] == [0, 1, 2]
    assert (match["seq_first"], match["seq_end"]) == (6, 46)
    assert match["command"] == "pitr describe 'before-tx:oops 1'"
    assert shop.document("describe", match["target"])["next"]["seq"] == 6

    result = shop.run("find", "-c", "shop.*", "--limit", "2", "--order", "oldest")
    header, first, second = result.stdout.splitlines()
    assert header.split()[:4] == ["AT", "SEQ", "CHANGES", "WHAT"]
    assert first.split() == [
        *("2026-03-01T09:00:01.000001Z", "1", "1", "shop.orders", "1", "update", '{"id":1}'),
        *("user:7", "POST", "/cart", "before-seq:1"),
    ]
    assert second.endswith("before-tx:t1")
    assert "2 of 6 matches" in result.stderr
    assert "next: pitr describe before-seq:1" in result.stderr

    def seqs(*args: str) -> list[int]:
        matches = shop.document("find", "--order", "oldest", *args)["matches"]
        return [match["seq_first"] for match in matches]

    assert seqs("--where", "sum > 7", "--where", "sum < 7.51", "--since", "now-1h") == [46]
    assert seqs("--key", "2", "--tx", "t1", "--until", "2026-03-01T09:00:02Z") == [3]
    assert seqs("--reason", "cart", "--actor", "user*", "--lane", "file:*") == [1]
    nothing = shop.run("find", "--actor", "nobody")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing matches" in nothing.stderr


def test_a_search_that_makes_no_sense_is_refused(shop: Place) -> None:
    for args, code in (
        (["--where", "sum == 8"], 2),
        (["--since", "2026-03-01T09:00:00"], 2),
        (["--until", "seq:3"], 2),
        (["--since", "now", "--until", "now-1m"], 2),
        (["--op", "drop"], 2),
        (["--key", "[1]"], 2),
        (["--collection", "shop.nope"], 3),
    ):
        result = shop.run("find", *args)
        assert (result.exit_code, result.stdout) == (code, ""), args


def test_marks_are_set_listed_used_and_deleted(shop: Place) -> None:
    made = shop.document("mark", "before-deploy", "--at", "seq:1", "--reason", "v2")
    assert (made["seq_end"], made["actor"], made["reason"]) == (2, "tester", "v2")
    by_time = shop.document("mark", "noon", "--at", "2026-03-01T09:00:02Z")
    assert by_time["at"] == "2026-03-01T09:00:02.000000Z"
    assert [each["name"] for each in shop.document("mark")["marks"]] == ["before-deploy", "noon"]
    assert json.loads(shop.done("show", "shop.orders", "1", "--at", "mark:noon"))["sum"] == 9.5
    taken = shop.run("mark", "noon")
    assert taken.exit_code == 4
    assert shop.document("mark", "--delete", "noon")["deleted"] == "noon"
    assert shop.run("mark", "--delete", "noon").exit_code == 3


@pytest.mark.parametrize("name", ["", " ", " x", "a\nb", "x" * 201])
def test_what_is_no_name_for_a_mark_is_refused(shop: Place, name: str) -> None:
    assert shop.run("mark", name).exit_code == 2


# Upkeep


def test_upkeep_changes_no_state(shop: Place) -> None:
    before = shop.done("restore", "--to", "seq:3", "--into", "-")
    dry = shop.document("compact", "--dry-run")
    assert dry["seal"]["change_count"] == 5
    assert len(shop.document("compact")["sealed"]) == 1
    shop.ingest([order(3, "10:00:00")])
    assert shop.document("snapshot", "--dry-run")["dry_run"] is True
    assert shop.document("snapshot")["snapshot"]["seq_end"] == 7
    assert shop.document("snapshot")["snapshot"] is None
    merged = shop.document("compact", "--all")
    assert [len(each["sources"]) for each in merged["merges"]] == [2]
    assert shop.done("restore", "--to", "seq:3", "--into", "-") == before
    report = shop.document("verify")
    assert report["verdict"] == "pass"
    assert shop.document("compact")["merges"] == []
    assert shop.done("verify").startswith("pass: ")


def damage(place: Place) -> Path:
    (segment,) = (place.data / "store" / place.log / "segments").glob("*.parquet")
    body = bytearray(segment.read_bytes())
    body[len(body) // 2] ^= 1
    segment.chmod(0o644)
    segment.write_bytes(body)
    return segment


def test_a_flipped_bit_fails_verify_and_every_reader_with_exit_code_6(shop: Place) -> None:
    shop.done("compact")
    segment = damage(shop)
    result = shop.run("verify", "--json")
    assert result.exit_code == 6
    report = one_object(result.stdout)
    assert report["verdict"] == "fail"
    (failed,) = [check for check in report["checks"] if check["verdict"] == "fail"]
    assert failed["name"].endswith(segment.name)
    assert failed["lost"] == "changes seq 1 to 5"
    for args in (
        ["restore", "--to", "latest", "--into", "-"],
        ["tail"],
        ["history", "shop.orders", "1"],
        ["show", "shop.orders", "2"],
        ["find"],
    ):
        reader = shop.run(*args)
        assert reader.exit_code == 6, (args, reader.stdout, reader.stderr, reader.exception)
        assert reader.stdout == ""
        assert "pitr: data_loss: " in reader.stderr


# Quarantine


def test_quarantine_is_listed_shown_replayed_and_dismissed(place: Place, tmp_path: Path) -> None:
    bad = [b"{nonsense", b'{"collection":"c","key":1,"after":{},"at":"2026-03-01T09:00:00"}', b"[]"]
    place.done("ingest", "-", body=lines([order(1)]) + b"\n".join(bad) + b"\n")
    listed = place.document("quarantine")
    assert listed["counts"]["waiting"] == 3
    first, second, third = (item["id"] for item in listed["items"])
    assert place.document("quarantine", "show", str(first))["body"] == "{nonsense"
    assert "{nonsense" in place.done("quarantine", "show", str(first))

    assert place.run("quarantine", "replay", str(first)).exit_code == 2
    fixed = tmp_path / "fixed.json"
    fixed.write_bytes(lines([order(7)]))
    replayed = place.document("quarantine", "replay", str(first), "--body", str(fixed))
    assert replayed["stored"] == 1
    assert place.run("quarantine", "replay", str(first), "--body", str(fixed)).exit_code == 4
    assert json.loads(place.done("show", "shop.orders", "7"))["id"] == 7

    assert place.document("quarantine", "dismiss", str(second))["status"] == "dismissed"
    assert place.run("quarantine", "dismiss", str(second)).exit_code == 3
    every = place.document("quarantine", "replay-all")
    assert (every["replayed"], every["still_unreadable"]) == (0, 1)
    assert [item["id"] for item in place.document("quarantine", "list")["items"]] == [third]
    assert len(place.document("quarantine", "list", "--status", "all")["items"]) == 3


def test_an_input_that_is_not_there_is_not_found(shop: Place) -> None:
    for verb in ("show", "replay", "dismiss"):
        assert shop.run("quarantine", verb, "999999999").exit_code == 3


# Restores


def test_a_dry_run_shows_what_is_read_and_writes_nothing(shop: Place, tmp_path: Path) -> None:
    shop.done("compact")
    shop.ingest([order(3, "10:00:00")])
    result = shop.run("restore", "--to", "latest", "--into", str(tmp_path / "out"), "--dry-run")
    assert result.exit_code == 0
    assert "latest, exactly on a change" in result.stdout
    assert "1 object" in result.stdout and "and 1 change of the tail" in result.stdout
    assert not (tmp_path / "out").exists()
    (recorded,) = shop.document("operations")["operations"]
    assert (recorded["kind"], recorded["outcome"]) == ("plan", "done")
    plan = shop.document("restore", "--to", "latest", "--dry-run")
    assert [ref["seq_end"] for ref in plan["seen"]["reads"]["segments"]] == [6]


def test_a_restore_is_written_recorded_and_never_overwrites(shop: Place, tmp_path: Path) -> None:
    into = tmp_path / "out"
    args = ("restore", "--to", "2026-03-01T09:00:02Z", "--into", str(into))
    report = shop.document(*args, "--reason", "look", "--actor", "me")
    assert report["rows"] == {"shop.carts": 0, "shop.orders": 2} or report["rows"] == {
        "shop.orders": 2
    }
    again = shop.run(*args)
    assert again.exit_code == 4
    assert "--force" in again.stderr
    unasked = shop.run(*args, "--force")
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    shop.done(*args, "--force", "--yes")
    newest, failed, first = shop.document("operations")["operations"]
    assert [each["outcome"] for each in (newest, failed, first)] == ["done", "failed", "done"]
    assert (first["actor"], first["reason"]) == ("me", "look")
    assert first["id"] == report["operation_id"]


def test_rows_on_stdout_are_nothing_but_rows(shop: Place) -> None:
    rows = shop.done("restore", "--to", "seq:3", "--into", "-", "--rows-only").splitlines()
    assert [json.loads(row)["id"] for row in rows] == [1, 2]
    result = shop.run("restore", "--to", "latest", "--into", "-", "--json")
    assert result.exit_code == 2
    assert one_object(result.stdout)["error"]["code"] == "invalid_request"


def test_a_restore_of_one_collection_or_one_row(shop: Place) -> None:
    def restored(*args: str) -> list[str]:
        rows = shop.done("restore", "--to", "seq:5", "--into", "-", *args).splitlines()
        return [json.loads(row)["collection"] for row in rows]

    assert restored() == ["shop.carts", "shop.orders"]
    assert restored("-c", "shop.carts") == ["shop.carts"]
    assert restored("--key", "shop.orders=2") == ["shop.orders"]
    assert restored("--key", "shop.orders=1") == []
    assert shop.run("restore", "--to", "latest", "--into", "-", "-c", "nope").exit_code == 3


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--into", "ftp://x/y"],
        ["--into", "x.csv", "--format", "parquet"],
        ["--into", "x.csv", "--rows-only"],
        ["--into", "-", "--key", "nonsense"],
        ["--into", "-", "--key", "c=1", "-c", "c"],
        ["--into", "-", "--wait", "--wait-timeout", "soon"],
    ],
)
def test_a_restore_that_makes_no_sense_is_refused(shop: Place, args: list[str]) -> None:
    assert shop.run("restore", "--to", "latest", *args).exit_code == 2


def test_waiting_ends_when_the_time_is_up_or_the_log_is_there(shop: Place, tmp_path: Path) -> None:
    ahead = ("restore", "--to", "2099-01-01T00:00:00Z", "--into", str(tmp_path / "out"))
    assert shop.run(*ahead).exit_code == 4
    waited = shop.run(*ahead, "--wait", "--wait-timeout", "300ms")
    assert waited.exit_code == 4
    assert waited.stderr.startswith("waiting: ")
    shop.done("restore", "--to", "now", "--wait", "--into", str(tmp_path / "out"))


# Docs


def test_every_field_of_json_output_is_documented(shop: Place, tmp_path: Path) -> None:
    shop.done("ingest", "-", body=b"{nonsense\n")
    shop.done("mark", "one")
    shop.done("restore", "--to", "latest", "--into", str(tmp_path / "out"))
    documents = [
        shop.document(*args)
        for args in (
            ["ingest", "-"],
            ["compact", "--dry-run"],
            ["compact"],
            ["snapshot"],
            ["snapshot", "--dry-run"],
            ["status"],
            ["status", shop.log],
            ["tail"],
            ["describe", "seq:2"],
            ["find"],
            ["mark"],
            ["mark", "two"],
            ["mark", "--delete", "two"],
            ["operations"],
            ["quarantine"],
            ["quarantine", "replay-all"],
            ["restore", "--to", "latest", "--dry-run", "--key", "shop.orders=2"],
            ["restore", "--to", "latest", "--into", str(tmp_path / "again")],
            ["verify"],
        )
    ]
    history = shop.document("history", "shop.orders", "1")
    for change in history["changes"]:
        change["before"] = change["after"] = change["meta"] = None
    row = shop.document("show", "shop.orders", "2") | {"row": None}
    for document in documents[7]["changes"]:
        document["after"] = document["key"] = None
    keys_hidden = [_without_keys(each) for each in [*documents, history, row]]
    assert undocumented(keys_hidden) == set()


def _without_keys(document: Any) -> Any:
    """Leave out what the data chose."""
    if isinstance(document, dict):
        return {n: None if n == "key" else _without_keys(v) for n, v in document.items()}
    if isinstance(document, list):
        return [_without_keys(each) for each in document]
    return document
