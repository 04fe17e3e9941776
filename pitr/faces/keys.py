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


ROWS_MAX = 100_000
"""How many rows a file may name: they stand in the plan one by one."""


def rows_of_lines(body: bytes) -> list[tuple[str, str]]:
    """Read lines of ``{"collection":…,"key":…}``; a key is the value of ``id``, or an object.

    Raises:
        InvalidRequest: A line is none; facts say which.
    """
    import msgspec

    from pitr.domain.keys import BadKey, canonical_key

    members = msgspec.json.Decoder(dict[str, msgspec.Raw])
    text, found = msgspec.json.Decoder(str), list[tuple[str, str]]()
    for number, line in enumerate(body.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = members.decode(line)
            key = canonical_key(bytes(row["key"]))
            found.append((text.decode(row["collection"]), key))
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, BadKey) as error:
            raise InvalidRequest(
                "a line names no row",
                hint='write {"collection":"shop.orders","key":42}, one a line',
                line=number,
                reason=str(error),
            ) from error
        if len(found) > ROWS_MAX:
            raise InvalidRequest("the file names too many rows", rows_max=ROWS_MAX)
    return found
