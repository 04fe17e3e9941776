"""URLs of databases, with and without the password: that is never stored, shown or logged."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pitr.domain.errors import InvalidRequest


def split_password(url: str) -> tuple[str, str | None]:
    """Take the password out of a URL.

    Raises:
        InvalidRequest: It is no URL of a PostgreSQL database.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not (parts.netloc or parts.query):
        raise InvalidRequest(
            "this is no URL of a database", hint="postgresql://user@host:5432/database"
        )
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    options = parse_qsl(parts.query, keep_blank_values=True)
    given = [value for name, value in options if name == "password"]
    query = urlencode([pair for pair in options if pair[0] != "password"], quote_via=quote)
    plain = _joined(parts._replace(netloc=f"{user}{at}{hosts}", query=query))
    return plain, unquote(password) if colon else (given[-1] if given else None)


def with_password(url: str, password: str | None) -> str:
    """Put a password into a URL that has none."""
    if password is None:
        return url
    parts = urlsplit(url)
    options = [*parse_qsl(parts.query, keep_blank_values=True), ("password", password)]
    return _joined(parts._replace(query=urlencode(options, quote_via=quote)))


def _joined(parts: SplitResult) -> str:
    """Put a URL together; ``urlunsplit`` would forget the slashes where there is no host."""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query}"
