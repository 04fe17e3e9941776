"""Keys as people type them."""

from __future__ import annotations

from pitr.domain.errors import InvalidRequest


def key_of(text: str) -> str:
    """Read a key: JSON, or plain text that stands for a JSON string.

    ``42`` is the key ``{"id":42}``, ``abc`` and ``"abc"`` are ``{"id":"abc"}``, ``"42"`` with its
    quotes is ``{"id":"42"}``, and what starts with a brace is the key itself.

    Raises:
        BadKey: It names no row.
    """
    import msgspec

    from pitr.domain.keys import BadKey, canonical_key

    try:
        return canonical_key(text.encode())
    except BadKey as error:
        if error.flaw != "not_json" or not text.strip() or text.lstrip()[0] in '{["':
            raise BadKey(
                f"the key {error.message}",
                flaw=error.flaw,
                **{**error.facts, "key": text},
            ) from error
    return canonical_key(msgspec.json.encode(text))


def row_of(text: str) -> tuple[str, str]:
    """Read ``collection=key``.

    Raises:
        InvalidRequest: It is not of that form.
    """
    collection, equals, key = text.partition("=")
    if not (collection and equals and key):
        raise InvalidRequest("the row cannot be read", hint="write --key shop.orders=42", row=text)
    return collection, key_of(key)
