"""Certificates of a broker with TLS and of its clients, made by the command ``openssl``."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPENSSL_S = 20.0
KEY_PASSWORD = "sesame-street"

EXTENSIONS = """\
[req]
distinguished_name = nobody
[nobody]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
subjectAltName = {name}
"""


def absent() -> str | None:
    """Why no certificates can be made; None if they can."""
    return None if shutil.which("openssl") else "openssl not found"


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files. The broker's is for one address; a stranger's authority signed none of them."""

    authority: Path
    stranger: Path
    broker: Path
    """Key and certificate, as a keystore of Kafka."""
    client: Path
    client_key: Path
    """Encrypted with ``KEY_PASSWORD``."""
    strange_client: Path
    """Signed by the stranger; with its key, which is not encrypted."""


def made(folder: Path, *, address: str) -> Certificates:
    """Make all of them for a broker at an IP address."""
    folder.mkdir()
    (folder / "openssl.cnf").write_text(EXTENSIONS.format(name=f"IP:{address}"))
    for authority in ("authority", "stranger"):
        kind = ("-x509", "-days", "2", "-extensions", "authority")
        _request(folder, authority, "-nodes", *kind, out=f"{authority}.pem")
    _signed(folder, "broker", "-nodes", by="authority")
    _signed(folder, "client", "-passout", f"pass:{KEY_PASSWORD}", by="authority")
    _signed(folder, "strange", "-nodes", by="stranger")
    for name in ("broker", "strange"):
        both = (folder / f"{name}.key").read_text() + (folder / f"{name}.pem").read_text()
        (folder / f"{name}.both.pem").write_text(both)
    return Certificates(
        authority=folder / "authority.pem",
        stranger=folder / "stranger.pem",
        broker=folder / "broker.both.pem",
        client=folder / "client.pem",
        client_key=folder / "client.key",
        strange_client=folder / "strange.both.pem",
    )


def _request(folder: Path, name: str, *options: str, out: str) -> None:
    """Make a key, and a certificate of itself or a request for one."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", f"{name}.key")
    config = ("-config", "openssl.cnf", "-subj", f"/CN=pitr-tests {name}")
    _openssl(folder, "req", "-new", "-sha256", *key, *config, *options, "-out", out)


def _signed(folder: Path, name: str, *options: str, by: str) -> None:
    _request(folder, name, *options, out=f"{name}.csr")
    authority = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-days", "2")
    extensions = ("-extfile", "openssl.cnf", "-extensions", "leaf")
    files = ("-in", f"{name}.csr", "-out", f"{name}.pem")
    _openssl(folder, "x509", "-req", "-sha256", *files, *authority, *extensions)


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=OPENSSL_S,
    )
    if done.returncode:
        raise RuntimeError(f"openssl failed: {' '.join(arguments)}\n{done.stdout[-4_000:]}")
