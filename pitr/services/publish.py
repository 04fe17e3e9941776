"""Publishes manifest entries to the store, in order, after they are in the catalog."""

from __future__ import annotations

from pitr.domain.catalog import Catalog
from pitr.domain.log import LogState
from pitr.domain.manifest import FORMAT_VERSION, GENESIS_HASH, canonical_json, sha256_hex
from pitr.domain.ports import ObjectStore


def entry_name(log: str, version: int) -> str:
    """The name of a manifest entry in the store."""
    return f"{log}/manifest/{version:020}.json"


class Publisher:
    """Brings the store's manifest up to the catalog's; safe to run twice, anywhere, any time."""

    def __init__(self, catalog: Catalog, store: ObjectStore) -> None:
        self._catalog = catalog
        self._store = store

    async def publish(self, log: str) -> int:
        """Publish what is not published yet; return the number of entries.

        An entry is published after the one before it, so that a reader of the store alone finds a
        prefix of the manifest.

        Raises:
            Unavailable: Store or catalog did not answer; call again.
            Conflict: The store holds another manifest under this log's name.
        """
        state = await self._catalog.log(log)
        if state.published_version == 0:
            await self._introduce(state)
        count = 0
        while entries := await self._catalog.entries(
            log, version_first=state.published_version + 1 + count, limit=100
        ):
            for version, body, digest in entries:
                await self._store.put_new(entry_name(log, version), body, sha256=digest)
                count += 1
            await self._catalog.published(log, entries[-1][0])
        return count

    async def _introduce(self, state: LogState) -> None:
        """Write ``pitr.json``: whose log this is, in which format."""
        facts = {"log": state.name, "log_id": state.uid, "genesis": GENESIS_HASH}
        body = canonical_json({"format": FORMAT_VERSION, **facts})
        await self._store.put_new(f"{state.name}/pitr.json", body, sha256=sha256_hex(body))
