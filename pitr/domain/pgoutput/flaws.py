"""What is wrong with a message of one row, for people; its neighbours are not affected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.tuples import NULL, UNCHANGED, VALUE

BAD_MESSAGE: Final = "bad_message"

_MARKERS: Final = {"I": "N", "U": "KON", "D": "KO"}


class Flaw(NamedTuple):
    """Why a message cannot be read; ``code`` is one word of ``docs/quarantine.md``."""

    code: str
    reason: str


class _Found(Exception):
    pass


def misshapen(payload: bytes, relations: Mapping[int, Relation]) -> Flaw:
    """Say where a row message stops to be one."""
    try:
        _walk(payload, relations)
    except _Found as found:
        return Flaw(BAD_MESSAGE, str(found))
    raise AssertionError("the message is good")


def _walk(payload: bytes, relations: Mapping[int, Relation]) -> None:
    if len(payload) < len(b"I....N.."):
        raise _Found("message: ends too early")
    relid = int.from_bytes(payload[1:5], "big")
    relation = relations.get(relid)
    if relation is None:
        raise _Found(f"relation: {relid} was never described")
    kind, marker = chr(payload[0]), chr(payload[5])
    if marker not in _MARKERS[kind]:
        raise _Found(f"message: {marker!r} marks no row in {kind!r}")
    place = _tuple_end(payload, 6, relation)
    if kind == "U" and marker != "N":
        if payload[place : place + 1] != b"N":
            raise _Found("message: has no new row")
        place = _tuple_end(payload, place + 1, relation)
    if place != len(payload):
        raise _Found("message: has bytes past its end")


def _tuple_end(payload: bytes, place: int, relation: Relation) -> int:
    count = int.from_bytes(payload[place : place + 2], "big")
    if count != len(relation.columns):
        raise _Found(f"row: has {count} columns, {relation.collection} has {len(relation.columns)}")
    place += 2
    for column in relation.columns:
        mark = payload[place : place + 1]
        place += 1
        if mark == bytes([VALUE]):
            length = int.from_bytes(payload[place : place + 4], "big")
            if place + 4 + length > len(payload):
                raise _Found(f"{column.name}: ends too early")
            place += 4 + length
        elif not mark:
            raise _Found(f"{column.name}: is missing")
        elif mark[0] not in (NULL, UNCHANGED):
            raise _Found(f"{column.name}: is of the unknown kind {mark!r}")
    return place
