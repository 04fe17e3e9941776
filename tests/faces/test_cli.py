"""The command line as a program: exit codes, stdout and stderr, interrupts, what it refuses."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pitr.domain import errors
from pitr.domain.errors import PitrError
from pitr.faces.cli.console import EXIT_CODES, exit_code
from pitr.faces.keys import key_of, row_of
from tests.faces.cli_tools import one_object, pitr, start

FAMILIES = (
    (errors.InvalidRequest, 2),
    (errors.NotFound, 3),
    (errors.Conflict, 4),
    (errors.Unavailable, 5),
    (errors.DataLoss, 6),
)


def leaves(family: type[PitrError]) -> list[type[PitrError]]:
    return [family, *(leaf for child in family.__subclasses__() for leaf in leaves(child))]


@pytest.mark.parametrize(("family", "code"), FAMILIES)
def test_every_error_of_a_family_has_the_familys_exit_code(
    family: type[PitrError], code: int
) -> None:
    for leaf in leaves(family):
        error = leaf.__new__(leaf)
        assert exit_code(error) == code, leaf


def test_every_family_has_an_exit_code() -> None:
    assert {family for family, _ in EXIT_CODES} == set(PitrError.__subclasses__())


# Usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nope"],
        ["--nope"],
        ["status", "--nope"],
        ["restore"],
        ["ingest"],
        ["ingest", "-", "--format", "xml"],
        ["tail", "-n", "many"],
        ["history", "c"],
        ["quarantine", "show", "x"],
        ["quarantine", "show", "0"],
        ["quarantine", "show", "9223372036854775808"],
        ["verify", "too", "much"],
        ["serve", "--port", "65536"],
    ],
)
def test_what_the_parser_refuses_is_an_invalid_request(args: list[str]) -> None:
    result = pitr(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("pitr: invalid_request: ")
    assert second.startswith("hint: pitr ")

    result = pitr(*args, "--json")
    assert result.exit_code == 2
    assert one_object(result.stdout)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("name", ["sql", "drill", "doctor", "token", "expire", "capture"])
def test_there_are_no_commands_that_do_nothing(name: str) -> None:
    assert pitr(name).exit_code == 2


def test_help_is_on_stdout_and_names_every_command() -> None:
    result = pitr("--help")
    assert result.exit_code == 0
    for name in ("serve", "ingest", "restore", "verify", "demo", "Exit codes"):
        assert name in result.stdout


def test_the_version_is_printed() -> None:
    assert pitr("--version").stdout.startswith("pitr ")
    assert set(one_object(pitr("--json", "--version").stdout)) == {"version"}


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from pitr.faces.cli import app; import typer.main;"
        "typer.main.get_command(app);"
        "heavy = {'pyarrow', 'duckdb', 'asyncpg', 'pydantic', 'orjson', 'fastapi', 'structlog'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.decode().strip() == "[]", done.stderr


# What cannot work


def test_a_folder_without_data_is_not_filled_by_who_only_looks(tmp_path: Path) -> None:
    for args in (["status"], ["tail"], ["verify"], ["restore", "--to", "latest", "--dry-run"]):
        result = pitr(*args, "--data", str(tmp_path / "typo"))
        assert result.exit_code == 3, (args, result.stderr)
        assert "hint: pitr serve, pitr attach and pitr ingest start it" in result.stderr
    assert not (tmp_path / "typo").exists()


def test_a_catalog_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    url = "postgresql://127.0.0.1:1/none"
    result = pitr("status", "--json", "--catalog-url", url, "--data", str(tmp_path))
    assert result.exit_code == 5
    assert one_object(result.stdout)["error"]["code"] == "unavailable"
    assert result.stderr.startswith("pitr: unavailable: ")


def test_a_wrong_setting_is_an_invalid_request_that_names_it() -> None:
    result = pitr("status", env={"PITR_SEAL_ROWS": "many"})
    assert result.exit_code == 2
    assert "PITR_SEAL_ROWS" in result.stderr


def test_a_missing_file_is_not_found_before_anything_starts(tmp_path: Path) -> None:
    result = pitr("ingest", str(tmp_path / "none.ndjson"), "--data", str(tmp_path / "data"))
    assert result.exit_code == 3
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("columns", ["", "a,,b", "a,a", " "])
def test_key_columns_that_are_no_list_of_names_are_refused(columns: str, tmp_path: Path) -> None:
    result = pitr("ingest", "-", "--key-columns", columns, "--data", str(tmp_path), body=b"")
    assert result.exit_code == 2


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    result = pitr("mark", "caf\udce9", "--data", str(tmp_path))
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_a_bug_is_told_in_short_and_with_its_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise KeyError("surprise\x1b[31m")

    monkeypatch.setattr("pitr.settings.load_settings", broken)
    result = pitr("status", "--json")
    assert result.exit_code == 1
    assert one_object(result.stdout)["error"]["code"] == "bug"
    assert result.stderr.startswith("pitr: bug: KeyError: ")
    assert "PITR_DEBUG=1" in result.stderr
    assert "\x1b" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in pitr("status", env={"PITR_DEBUG": "1"}).stderr


# Keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("42", '{"id":42}'),
        ("4.20", '{"id":4.20}'),
        ("abc", '{"id":"abc"}'),
        ('"42"', '{"id":"42"}'),
        ("550e8400-e29b-41d4", '{"id":"550e8400-e29b-41d4"}'),
        ("007", '{"id":"007"}'),
        ("a b é", '{"id":"a b é"}'),
        ("true", '{"id":true}'),
        (' { "b" : 1, "a" : "x" } ', '{"a":"x","b":1}'),
    ],
)
def test_a_key_is_json_or_plain_text(text: str, key: str) -> None:
    assert key_of(text) == key
    assert row_of(f"shop.orders={text}") == ("shop.orders", key)


@pytest.mark.parametrize("text", ["", " ", "null", "[1]", "{}", '{"a":1', '{"a":null}', '"open'])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="key"):
        key_of(text)


@pytest.mark.parametrize("text", ["", "42", "=42", "c="])
def test_a_row_needs_collection_and_key(text: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        row_of(text)


# Signals and pipes


@pytest.fixture(scope="module")
def data(short_folder: Path) -> Path:
    """A data folder with three changes."""
    folder = short_folder / "signals"
    body = b"".join(b'{"collection":"c","key":%d,"after":{}}\n' % n for n in range(3))
    result = pitr("ingest", "-", "--data", str(folder), body=body)
    assert result.exit_code == 0, result.stderr
    return folder


def read_line(process: subprocess.Popen[bytes], timeout_s: float = 30) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    assert ready, "nothing was printed"
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")],
)
def test_a_signal_ends_a_command_cleanly_and_stops_its_postgresql(
    data: Path, sent: signal.Signals, code: int, word: bytes
) -> None:
    process = start("tail", "--follow", "--json", "--data", str(data))
    assert json.loads(read_line(process))["seq"] == 1
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert stderr == b"pitr: " + word + b"\n"
    assert not (data / "postgres" / "data" / "postmaster.pid").exists()


def test_a_reader_that_goes_away_ends_a_command_quietly(data: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("tail", "--json", "--data", str(data), stdout=writing)
    os.close(writing)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 141
    assert stderr == b""


def test_an_output_that_cannot_be_written_is_an_error(data: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        process = start("tail", "--data", str(data), stdout=full)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 5
    assert stderr.startswith(b"pitr: unavailable: the output cannot be written")


def test_stderr_has_no_progress_bar_where_it_is_no_terminal(data: Path) -> None:
    process = start("verify", "--data", str(data))
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout.startswith(b"pass: ")
    assert stderr == b""


def test_following_shows_what_comes(data: Path) -> None:
    """Changes are stored until one is shown: the first may come before the looking begins."""
    process = start("tail", "-n", "0", "--follow", "--json", "--data", str(data))
    try:
        for number in range(30):
            body = b'{"collection":"late","key":%d,"after":{ "a":1.10}}\n' % number
            assert pitr("ingest", "-", "--data", str(data), body=body).exit_code == 0
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 2)
            if ready:
                line = process.stdout.readline()
                assert b'"after":{ "a":1.10}' in line
                assert json.loads(line)["collection"] == "late"
                return
        pytest.fail("no change was shown")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
