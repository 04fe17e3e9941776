"""The page about quarantine and the code name the same codes, and all of them are in use."""

from __future__ import annotations

import re
from pathlib import Path

from pitr.domain import keys
from pitr.domain.formats import CODES

ROOT = Path(__file__).parents[3]


def test_every_code_has_one_row_in_the_docs_and_every_row_a_code() -> None:
    page = (ROOT / "docs" / "quarantine.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert rows == sorted(CODES)


def test_every_code_is_used() -> None:
    folders = [ROOT / "pitr/domain/formats", ROOT / "pitr/domain/pgoutput"]
    sources = [*(path for each in folders for path in each.glob("*.py")), Path(keys.__file__)]
    text = "".join(path.read_text() for path in sources if path.name != "flaw.py")
    assert {code for code in CODES if f'"{code}"' not in text} == set()
