"""Runs the numbered migrations, each once, in order, under an advisory lock."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from pitr.adapters.catalog.connection import translated
from pitr.domain.errors import Conflict

MIGRATION_LOCK = 0x70697472
"""The advisory lock's number: ``pitr`` in ASCII."""

_PREPARE = """
CREATE SCHEMA IF NOT EXISTS pitr;
CREATE TABLE IF NOT EXISTS pitr.migrations (
    name       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


async def migrate(pool: Any, folder: Path) -> list[str]:
    """Apply what is missing; return the names applied now.

    Raises:
        Conflict: A migration that was applied is not the one in ``folder``, or the catalog is
            ahead of this version of pitr.
    """
    files = await asyncio.to_thread(_files, folder)
    with translated():
        async with pool.acquire() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
            try:
                await connection.execute(_PREPARE)
                return await _apply_missing(connection, files)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)


def _files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob("*.sql"))}


async def _apply_missing(connection: Any, files: dict[str, str]) -> list[str]:
    rows = await connection.fetch("SELECT name, sha256 FROM pitr.migrations")
    known = {row["name"]: row["sha256"] for row in rows}
    _check_known(known, files)
    missing = [name for name in files if name not in known]
    for name in missing:
        async with connection.transaction():
            await connection.execute(files[name])
            await connection.execute(
                "INSERT INTO pitr.migrations (name, sha256) VALUES ($1, $2)",
                name,
                _digest(files[name]),
            )
    return missing


def _check_known(known: dict[str, str], files: dict[str, str]) -> None:
    for name, digest in known.items():
        if name not in files:
            raise Conflict(
                "the catalog was made by a newer pitr", hint="upgrade pitr", migration=name
            )
        if digest != _digest(files[name]):
            raise Conflict("a migration was changed after it was applied", migration=name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
