"""The docs of the command line name every command, option, variable, setting and JSON field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pitr.faces.cli import app
from pitr.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLI, SETTINGS, JSON = (
    (DOCS / name).read_text("utf-8") for name in ("cli.md", "settings.md", "cli-json.md")
)


def commands(group: Any, path: str = "pitr") -> Iterator[tuple[str, Any]]:
    """Every command of the tree, with its full name."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{path} {name}", command
        yield from commands(command, f"{path} {name}")


TREE = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_command_has_help_and_is_documented(name: str) -> None:
    assert TREE[name].help, name
    assert f"`{name}" in CLI or ("quarantine" in name and name.rsplit(maxsplit=1)[-1] in CLI)


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_option_and_its_variable_are_documented(name: str) -> None:
    for parameter in TREE[name].params:
        if getattr(parameter, "hidden", False):
            continue
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"{option}" in CLI, (name, option)
        if parameter.envvar:
            assert f"`{parameter.envvar}`" in CLI, (name, parameter.envvar)


def test_no_option_is_documented_that_does_not_exist() -> None:
    root = typer.main.get_command(app)
    parameters = [p for each in [root, *TREE.values()] for p in each.params]
    known = {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", CLI))
    assert named - known - {"--help", "--install-completion", "--show-completion"} == set()


def test_every_setting_is_documented_with_nothing_invented() -> None:
    known = {f"PITR_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"^\| `(PITR_\w+)`", SETTINGS, re.MULTILINE)) == known


def test_every_default_is_documented_as_it_is() -> None:
    units = {"64 MiB": 64 * 2**20, "128 MiB": 128 * 2**20, "1 GiB": 2**30}
    rows = re.findall(r"^\| `PITR_(\w+)` \| `?([^|`]+?)`? \|", SETTINGS, re.MULTILINE)
    for name, text in rows:
        default = Settings.model_fields[name.lower()].default
        if default is None:
            continue
        assert str(units.get(text, text)) == str(default), name


def field_names(document: Any) -> Iterator[str]:
    """Every name in a document that pitr chose, at any level."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield name
            if name not in ("rows", "facts", "detail", "urls", "steps_s", "quarantined_reasons"):
                yield from field_names(value)
    elif isinstance(document, list | tuple):
        for each in document:
            yield from field_names(each)


def undocumented(document: Any) -> set[str]:
    """The names that docs/cli-json.md does not say."""
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", JSON))))
    return set(field_names(document)) - words
