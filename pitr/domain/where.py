"""Conditions on the columns of a change's documents, as people write them: ``total > 100``.

The grammar is in ``docs/targets.md``. Values are compared by their exact JSON text, numbers by
their value, and nothing is ever turned into a float (invariant 10).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from pitr.domain.documents import is_object
from pitr.domain.errors import InvalidRequest
from pitr.domain.numbers import Number, number_of

CONDITIONS_MAX: Final = 16
CONDITION_CHARS_MAX: Final = 1_000

Image = Literal["before", "after"]

_SPOKEN: Final = re.compile(
    r'\s*(?:(?P<image>before|after)\.)?(?P<column>"(?:[^"\\]|\\.)*"|[^\s=!<>~"]+)'
    r"(?:\s+(?P<null>(?i:is\s+null))|\s*(?P<operator>!=|<=|>=|=|<|>|~)\s*(?P<value>.*?))\s*",
    re.DOTALL,
)
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'", re.DOTALL)
_HINT: Final = "write it like \"status = paid\", 'total >= 99.90' or 'note is null'"

_text: Final = msgspec.json.Decoder(str)
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a column must be. ``image`` None is either document.

    ``operator`` is ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``~`` or ``is null``. ``value`` is
    the text to compare with; ``number`` is set where it is meant as a number, ``truth`` where it is
    ``true`` or ``false``.
    """

    column: str
    operator: str
    image: Image | None = None
    value: str = ""
    number: Number | None = None
    truth: bool = False

    def holds(self, found: bytes) -> bool:
        """Tell whether a member's JSON text is what is asked for. Null is so only if asked for."""
        if self.operator == "is null":
            return found == b"null"
        if found == b"null":
            return False
        if self.operator == "~":
            return self.value in (_text.decode(found) if _is_text(found) else found.decode())
        order = self._order(found)
        if self.operator in ("=", "!="):
            return (order == 0) == (self.operator == "=")
        return order is not None and _ORDERS[self.operator](order)

    def _order(self, found: bytes) -> int | None:
        """Compare: below, at or above zero as ``found`` is; None if they are not comparable."""
        if self.truth:
            return 0 if found.decode() == self.value else None
        if self.number is not None:
            number = number_of(_text.decode(found) if _is_text(found) else found.decode())
            return None if number is None else (number > self.number) - (number < self.number)
        if not _is_text(found):
            return None
        text = _text.decode(found)
        return (text > self.value) - (text < self.value)


_ORDERS: Final[Mapping[str, Callable[[int], bool]]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


def _is_text(found: bytes) -> bool:
    return found[:1] == b'"'


Meets = Callable[[bytes | None, bytes | None], bool]
"""Whether the documents before and after a change meet conditions."""


def meeting(conditions: Sequence[Condition]) -> Meets:
    """Return what tells whether a change's documents meet all conditions.

    Those that name no document must hold in one and the same of the two.
    """
    in_before = [each for each in conditions if each.image == "before"]
    in_after = [each for each in conditions if each.image == "after"]
    in_either = [each for each in conditions if each.image is None]

    def meets(before: bytes | None, after: bytes | None) -> bool:
        old, new = _columns(before), _columns(after)
        if not (_hold(in_before, old) and _hold(in_after, new)):
            return False
        return _hold(in_either, new) or _hold(in_either, old)

    return meets


def _hold(conditions: Sequence[Condition], columns: Mapping[str, msgspec.Raw]) -> bool:
    for condition in conditions:
        found = columns.get(condition.column)
        if found is None or not condition.holds(bytes(found)):
            return False
    return True


_NO_COLUMNS: Final[Mapping[str, msgspec.Raw]] = {}


def _columns(document: bytes | None) -> Mapping[str, msgspec.Raw]:
    """Split a document into its members; one that is no object has none."""
    if document is None or not is_object(document):
        return _NO_COLUMNS
    return _members.decode(document)


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Read conditions.

    Raises:
        InvalidRequest: One is none, or too long; or there are too many.
    """
    if len(texts) > CONDITIONS_MAX:
        raise InvalidRequest("there are too many conditions", where_max=CONDITIONS_MAX)
    return tuple(parse_condition(text) for text in texts)


def parse_condition(text: str) -> Condition:
    """Read ``COLUMN OP VALUE`` or ``COLUMN is null``.

    Raises:
        InvalidRequest: It is neither, or too long.
    """
    if len(text) > CONDITION_CHARS_MAX:
        raise InvalidRequest(
            "the condition is too long", where=text[:60], characters_max=CONDITION_CHARS_MAX
        )
    found = _SPOKEN.fullmatch(text)
    if found is None:
        raise InvalidRequest("the condition cannot be read", hint=_HINT, where=text)
    column, image = _column(found["column"], text), _IMAGES[found["image"]]
    if found["null"]:
        return Condition(column=column, operator="is null", image=image)
    operator, value = found["operator"], found["value"]
    if value.lower() == "null":
        raise InvalidRequest(
            "nothing is equal to null", hint=f"write {found['column']} is null", where=text
        )
    truth = value in ("true", "false")
    if truth and operator not in ("=", "!=", "~"):
        raise InvalidRequest("true and false have no order", hint="use = or !=", where=text)
    return Condition(
        column=column,
        operator=operator,
        image=image,
        value=_value(value, text),
        number=number_of(value),
        truth=truth,
    )


_IMAGES: Final[Mapping[str | None, Image | None]] = {
    None: None,
    "before": "before",
    "after": "after",
}


def _column(spoken: str, text: str) -> str:
    return _unquoted(spoken, text) if spoken.startswith('"') else spoken


def _value(spoken: str, text: str) -> str:
    if spoken.startswith('"'):
        return _unquoted(spoken, text)
    if _QUOTED.fullmatch(spoken):
        return spoken[1:-1].replace("''", "'")
    if not spoken or spoken[0] in "'=!<>~{[":
        hint = f"put a text into quotes; {_HINT}"
        raise InvalidRequest("the condition's value cannot be read", hint=hint, where=text)
    return spoken


def _unquoted(spoken: str, text: str) -> str:
    try:
        return _text.decode(spoken)
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            "the quoted text cannot be read", hint="it is written as in JSON", where=text
        ) from error
