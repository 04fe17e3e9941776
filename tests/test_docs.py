"""The documents are true: links lead somewhere, codes and modules that they name exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pitr
from pitr.domain.errors import PitrError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
MODULE = re.compile(r"`((?:pitr/)?(?:domain|services|adapters|faces|catalog|demo)/[\w/]+\.py)")
TEST = re.compile(r"`(test_\w+\.py)")


def families(base: type[PitrError] = PitrError) -> Iterator[type[PitrError]]:
    """Every error there is."""
    for family in base.__subclasses__():
        yield family
        yield from families(family)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text()) if "://" not in target]
    missing = [t for t in targets if t and not (page.parent / t).exists()]
    assert missing == []


def test_every_error_code_is_documented() -> None:
    for module in pkgutil.walk_packages(pitr.__path__, "pitr."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    text = "".join(page.read_text() for page in PAGES)
    internal = {"error", "sequence_moved"}  # the base, and what an append settles by itself
    codes = {family.code for family in families()} - internal
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_architecture_names_modules_and_tests_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("pitr/**/*.py")]
    missing = [name for name in MODULE.findall(text) if not any(f.endswith(name) for f in files)]
    tests = {path.name for path in ROOT.glob("tests/**/*.py")}
    assert missing + [name for name in TEST.findall(text) if name not in tests] == []


def test_architecture_stays_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 300
