"""Reads the URL of a database to attach, and gives nothing of its password away.

A password with a character that has a meaning in URLs ends up in host, path or query. Whatever
looks like that is refused, and not quoted.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.urls import split_password

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^\[\]:/@]*)(:\d+)?")
_OPTION: Final = re.compile(r"[A-Za-z_]\w*")
_HINT: Final = (
    "postgresql://user@host:5432/database; in user and password write : / ? # [ ] @ %"
    " as %3A %2F %3F %23 %5B %5D %40 %25"
)


def checked_url(url: str) -> tuple[str, str | None]:
    """Take the password out of a URL that can be used; None if it has none.

    Raises:
        InvalidRequest: It is no URL of a PostgreSQL database, or holds another secret.
    """
    try:
        plain, password = split_password(url)
        parts, given = urlsplit(plain), urlsplit(url)
        options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise InvalidRequest("the database URL cannot be read", hint=_HINT) from None
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not (
        all(map(_HOST.fullmatch, hosts))
        and all(map(_OPTION.fullmatch, options))
        and "@" not in parts.path
        and not given.fragment
    ):
        raise InvalidRequest("the database URL cannot be read", hint=_HINT)
    if "sslpassword" in options:
        raise InvalidRequest(
            "the URL has the password of a key, which pitr does not store",
            hint="use a key file that needs none (sslkey=…) and that only pitr can read",
        )
    return plain, password or None


_SERVER: Final = ("host", "hostaddr", "port", "service")


def server_of(url: str) -> tuple[object, ...]:
    """Return the part of a URL that says which server it is."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    named = sorted(pair for pair in options if pair[0] in _SERVER)
    return parts.netloc.rpartition("@")[2].lower(), *named
