"""Verifies a log: the chain, the objects, the order; says pass, fail or inconclusive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.probe import object_problems
from pitr.domain.errors import DataLoss, NotFound, PitrError, Unavailable
from pitr.domain.log import LogView
from pitr.domain.manifest import Manifest, ObjectRef, apply_entry
from pitr.domain.plan import check_coverage
from pitr.domain.ports import ObjectStore, Progress
from pitr.services.lease import Leases
from pitr.services.publish import entry_name

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. ``lost`` names what a failure puts out of reach."""

    name: str
    verdict: Verdict
    detail: str
    lost: str | None = None


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """What was looked at, and the worst of it."""

    log: str
    checks: list[Check] = field(default_factory=list)
    objects: int = 0
    size_bytes: int = 0

    @property
    def verdict(self) -> Verdict:
        """``fail`` if anything failed, else ``inconclusive`` if anything could not be checked."""
        found = {check.verdict for check in self.checks}
        for verdict in ("fail", "inconclusive"):
            if verdict in found:
                return verdict
        return "pass"


class Verifier:
    """Hashes every live object anew and checks that the log is whole (invariants 1, 7, 8)."""

    def __init__(
        self, catalog: Catalog, store: ObjectStore, leases: Leases, *, new_id: Callable[[], str]
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._leases = leases
        self._new_id = new_id

    async def verify(self, log: str, *, progress: Progress = lambda _: None) -> VerifyReport:
        """Check everything; ``progress`` is told bytes.

        Raises:
            NotFound: There is no such log.
            Unavailable: The catalog does not answer at all.
        """
        async with self._leases.reading(log, self._new_id(), kind="verify"):
            return await self._verified(log, progress)

    async def _verified(self, log: str, progress: Progress) -> VerifyReport:
        view = await self._catalog.view(log)
        report = VerifyReport(log=log)
        report.checks.append(_checked("order", lambda: check_coverage(view), _order_detail(view)))
        report.checks.extend([check async for check in self._chain(view)])
        for ref in view.objects:
            report.checks.append(await self._object(ref))
            report.objects += 1
            report.size_bytes += ref.size_bytes
            progress(ref.size_bytes)
        report.checks.extend(_gap_checks(view))
        return report

    async def _chain(self, view: LogView) -> AsyncIterator[Check]:
        """The manifest in the catalog, link by link, and what the store has of it."""
        manifest, checked = Manifest(), 0
        log = view.state.name
        try:
            while manifest.version < view.state.manifest_version:
                entries = await self._catalog.entries(log, version_first=manifest.version + 1)
                if not entries:
                    raise DataLoss("a manifest entry is missing", version=manifest.version + 1)
                for version, body, digest in entries:
                    if version > view.state.manifest_version:
                        break
                    manifest = apply_entry(manifest, body, digest)
                    if version <= view.state.published_version:
                        checked += await self._published(log, version, body)
            _same_objects(manifest, view)
        except PitrError as error:
            yield _failed("manifest", error)
            return
        yield Check(name="manifest", verdict="pass", detail=f"{manifest.version} entries chained")
        yield Check(name="published", verdict="pass", detail=f"{checked} entries in the store")

    async def _published(self, log: str, version: int, body: bytes) -> int:
        try:
            stored = await self._store.read(entry_name(log, version))
        except NotFound as error:
            raise DataLoss("a published manifest entry is gone", version=version) from error
        if stored != body:
            raise DataLoss("a published manifest entry was altered", version=version)
        return 1

    async def _object(self, ref: ObjectRef) -> Check:
        try:
            path = await self._store.verified(ref, again=True)
            problems = await asyncio.to_thread(object_problems, path, ref)
        except PitrError as error:
            return _failed(ref.name, error, lost=_range(ref))
        if problems:
            return Check(name=ref.name, verdict="fail", detail=problems, lost=_range(ref))
        return Check(name=ref.name, verdict="pass", detail=f"{ref.size_bytes} bytes hashed")


def _range(ref: ObjectRef) -> str:
    what = f"{ref.collection} in a snapshot" if ref.kind == "snapshot" else "changes"
    return f"{what} seq {ref.seq_first} to {ref.seq_end - 1}"


def _order_detail(view: LogView) -> str:
    return f"seq 1 to {view.state.seq_next - 1}, each once"


def _checked(name: str, check: Callable[[], None], detail: str) -> Check:
    try:
        check()
    except PitrError as error:
        return _failed(name, error)
    return Check(name=name, verdict="pass", detail=detail)


def _failed(name: str, error: PitrError, *, lost: str | None = None) -> Check:
    verdict: Verdict = "inconclusive" if isinstance(error, Unavailable) else "fail"
    return Check(name=name, verdict=verdict, detail=str(error), lost=lost)


def _same_objects(manifest: Manifest, view: LogView) -> None:
    """Check that the catalog's list of live objects is what the manifest says.

    Raises:
        DataLoss: They differ.
    """
    listed = {ref.name: ref for ref in view.objects}
    if listed != dict(manifest.objects):
        names = sorted(set(listed) ^ set(manifest.objects)) or ["same names, other facts"]
        raise DataLoss("the catalog's objects are not the manifest's", first=names[0])


def _gap_checks(view: LogView) -> list[Check]:
    return [
        Check(
            name=f"gap in {gap.lane}",
            verdict="inconclusive",
            detail=gap.reason,
            lost=f"positions {gap.position_first} to {gap.position_end}",
        )
        for gap in view.gaps
    ]
