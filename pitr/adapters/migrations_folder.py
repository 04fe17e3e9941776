"""Knows where the numbered SQL migrations lie; reading and running them is the catalog's work."""

from __future__ import annotations

from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


def migrations_folder() -> Path:
    """Return ``pitr/migrations`` of an installed wheel, or ``migrations`` beside ``pitr``."""
    installed = PACKAGE_FOLDER / "migrations"
    checkout = PACKAGE_FOLDER.parent / "migrations"
    folder = installed if installed.is_dir() else checkout
    assert folder.is_dir(), f"the package holds no migrations: {installed}"
    return folder
