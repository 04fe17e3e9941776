"""Tables, sizes and values as text; a control character in a value never reaches a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

VALUE_CHARS_MAX = 60
"""Longest value that text shows; JSON output has it whole."""


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: frozenset[str] = frozenset(),
    header: bool = True,
) -> str:
    """Align cells in columns, two spaces apart; those named in ``right`` to the right.

    A table without rows is no text at all.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ""
    lines = [list(headers), *cells] if header else cells
    widths = [
        max((cell_len(line[place]) for line in lines), default=0) for place in range(len(headers))
    ]
    return "\n".join(
        "  ".join(
            _padded(text, width, right=name in right)
            for text, width, name in zip(line, widths, headers, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def printable(text: str) -> str:
    """Write control and other invisible characters as escapes, so that they do nothing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, chars_max: int = VALUE_CHARS_MAX) -> str:
    """Cut a text that is too long, and say how long it was."""
    if len(text) <= chars_max:
        return text
    return f"{text[: chars_max - 1]}… ({len(text):,} characters)"


def size(size_bytes: int) -> str:
    """Write a size in the unit that suits it, ``310 KiB``."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value, unit = size_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 999.5:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def counted(count: int, noun: str) -> str:
    """Write a number of things, ``1 object``, ``2,000 objects``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def seconds(us: int) -> str:
    """Write a span of time, ``2.31 s``."""
    return f"{us / 1e6:,.2f} s" if us >= 10_000 else f"{us / 1e3:.1f} ms"


def facts_table(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values below each other."""
    return table(("", ""), pairs, header=False)
