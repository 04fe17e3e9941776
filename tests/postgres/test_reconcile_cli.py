"""``pitr reconcile`` on a real database, beside ``pitr capture``."""

from __future__ import annotations

from tests.faces.cli_tools import Place, one_object
from tests.faces.test_cli_docs import undocumented
from tests.postgres.servers import execute
from tests.postgres.test_attach_cli import (
    embedded,
    is_read,
    name_of,
    place,
    running,
    sources,
    until,
)

__all__ = ["embedded", "place"]


def test_drift_is_reported_and_repaired(place: Place, source_db: str) -> None:
    url, name = source_db, name_of(source_db)
    execute(
        url,
        "CREATE TABLE notes (id int PRIMARY KEY, body text)",
        "INSERT INTO notes SELECT g, 'note ' || g FROM generate_series(1, 200) g",
    )
    nobody = place.run("reconcile")
    assert nobody.exit_code == 3, nobody.stderr
    place.done("attach", url)
    with running(place, "capture"):
        until(lambda: sources(place), is_read(1))
        same = place.document("reconcile")
        assert undocumented(same) == set()
        assert (same["verdict"], same["source"], same["repair"]) == ("pass", name, None)
        notes = same["collections"][0]
        assert (notes["collection"], notes["rows_live"], notes["rows_log"]) == (
            "public.notes",
            200,
            200,
        )
        place.ingest(
            [
                {"collection": "public.notes", "key": 1, "after": {"id": 1, "body": "planted"}},
                {"collection": "public.notes", "key": 900, "after": {"id": 900, "body": "new"}},
                {"collection": "public.notes", "key": 2, "op": "delete"},
            ]
        )
        found = place.run("reconcile", name, "--collection", "public.notes")
        assert found.exit_code == 6, (found.stdout, found.stderr)
        assert 'public.notes: different {"id":1}: body' in found.stdout
        assert "public.notes: columns that differ: body (1)" in found.stdout
        assert "--repair --dry-run" in found.stderr
        dry = place.run("reconcile", "--repair", "--dry-run", "--json")
        assert dry.exit_code == 6
        document = one_object(dry.stdout)
        assert undocumented(document) == set()
        (would,) = document["repair"]["collections"]
        assert (would["reads"], would["deletes"], document["repair"]["tx"]) == (2, 1, None)
        drift = document["collections"][0]["drift"]
        assert drift["examples"] == [
            {"kind": "missing", "key": {"id": 2}, "columns": []},
            {"kind": "extra", "key": {"id": 900}, "columns": []},
            {"kind": "different", "key": {"id": 1}, "columns": ["body"]},
        ]
        assert drift["columns"] == [{"name": "body", "row_count": 1}]
        said = place.done("reconcile", "--repair", "--reason", "planted", "--examples", "0")
        assert "public.notes: appended 2 reads and 1 delete" in said
        assert "different {" not in said
        (operation,) = place.document("operations")["operations"]
        assert (operation["kind"], operation["actor"], operation["reason"]) == (
            "reconcile",
            "tester",
            "planted",
        )
        assert "reconcile" in place.done("operations")
        assert place.document("reconcile")["verdict"] == "pass"
        assert place.document("show", "public.notes", "1")["row"]["body"] == "note 1"
    refused = place.run("reconcile", "--dry-run")
    assert refused.exit_code == 2, refused.stderr
    unknown = place.run("reconcile", "--collection", "public.no_such")
    assert unknown.exit_code == 3, unknown.stderr
    alone = place.run("reconcile", "--wait-timeout", "300ms", "--json")
    assert alone.exit_code == 5
    assert "pitr capture" in one_object(alone.stdout)["error"]["hint"]
