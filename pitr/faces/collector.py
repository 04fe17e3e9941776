"""Python's collector of cycles, set for processes that handle rows by the million."""

from __future__ import annotations

import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""Containers that are made before the collector looks at them; 700 by default.

A slice of rows is thousands of tuples that are gone soon and are in no cycle. To look at them again
and again was a fourteenth of a restore's processor time, and a look at everything took 50 ms.
"""


def set_collector() -> None:
    """Have the collector look seldom."""
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
