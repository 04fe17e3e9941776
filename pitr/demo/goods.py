"""Made-up values that are hard to bring back: odd keys, every script, long decimals, near-nulls."""

from __future__ import annotations

import string
from datetime import date
from decimal import Decimal
from random import Random

ODD_SKUS = (
    "A/1",
    "back\\slash",
    'double"quote',
    "single'quote",
    "tab\there",
    "line\nbreak",
    " leading space",
    "",
    "null",
    "42",
    '{"sku":"x"}',
    "' OR 1=1 --",
    "Ünï→çødé",
    "商品-七",
    "سلعة",
    "🛒🧾",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
    "a" * 300,
    "%s $1 :name ${x}",
)
NAMES = (
    "Ada Lovelace",
    "Zoë Ångström",
    "Nguyễn Thị Minh",
    "Владимир Ильин",
    "山田 太郎",
    "محمد العربي",
    'O\'Brien, "Bob"',
    "Ιωάννα 🦉",
    "नरेन्द्र",
    "İpek Işık",
    "null",
    "N/A",
)
JSON_TEXTS = (
    "null",
    '{"b":  1, "a": [1.10, 1e400, -0.0]}',
    '{"big": 123456789012345678901234567890, "text": "\\u00e9\\n\\"\\\\"}',
    "[]",
    '"plain"',
    "1.50",
    '{"": {"deep": [[[{"er": null}]]]}}',
)
JSONB_TEXTS = (
    "null",
    '{"street": "Hauptstraße 1", "floor": 2.50, "note": null}',
    '{"lat": 48.137154000000000001, "lon": -11.576124}',
    '{"lines": ["", " ", "\\u2028"], "since": 18446744073709551617}',
    "{}",
)
TAGS = ("vip", "", "null", "NULL", "a,b", "{braces}", 'quo"te', "back\\slash", " spaced ", "ünï")
NOTES = (None, "", " ", "null", "ring twice", "line one\nline two\ttab", "\\N", "ÿ→😀", "\u0001")
WAREHOUSES = ("north", "süd / 2")


class Goods:
    """Draws values from a seeded source; the same seed gives the same values."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def price(self) -> Decimal:
        """A price; one in fifty has more digits than any float holds."""
        if self._random.random() < 0.02:
            return Decimal(f"0.{self._random.randrange(10**29, 10**30)}")
        cents = self._random.randrange(1, 50_000)
        return Decimal(cents).scaleb(-self._random.choice((1, 2, 2, 2, 3)))

    def credit(self) -> Decimal:
        """A balance with thirty digits before the point and ten after it."""
        digits = self._random.choice((2, 4, 30))
        whole = self._random.randrange(-(10**digits), 10**digits)
        return Decimal(f"{whole}.{self._random.randrange(10**10):010}")

    def name(self) -> str:
        return f"{self._random.choice(NAMES)} {self._random.randrange(1000)}"

    def email(self) -> str | None:
        number = self._random.randrange(10**6)
        return self._random.choice((None, "", *[f"user{number}@example.org"] * 8))

    def tags(self) -> list[str | None]:
        tags: list[str | None] = list(self._random.sample(TAGS, self._random.randrange(4)))
        return [*tags, None] if self._random.random() < 0.1 else tags

    def labels(self) -> list[str | None] | None:
        return self.tags() if self._random.random() < 0.7 else None

    def note(self) -> str | None:
        return self._random.choice(NOTES)

    def json(self) -> str | None:
        return self._random.choice((None, *JSON_TEXTS))

    def jsonb(self) -> str | None:
        return self._random.choice((None, *JSONB_TEXTS))

    def newsletter(self) -> bool | None:
        return self._random.choice((True, False, None))

    def points(self) -> int:
        """Beyond 2^53 now and then."""
        return self._random.choice((0, -1, 250, 2**53 + 1, 2**63 - 1, -(2**63)))

    def weight(self) -> float | None:
        return self._random.choice((None, 0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 2.5))

    def day(self) -> date:
        return date(self._random.randrange(1, 9999), self._random.randrange(1, 13), 28)

    def blob(self) -> bytes:
        return self._random.randbytes(self._random.randrange(24))

    def photo(self) -> bytes | None:
        return self._random.choice((None, b"", b"\x00", self.blob()))

    def sku(self) -> str:
        letters = "".join(self._random.choices(string.ascii_uppercase, k=3))
        return f"{letters}-{self._random.randrange(10**5):05}"
