"""Settings of Python itself, for processes that handle rows by the million."""

from __future__ import annotations

import gc
import sys
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""Containers that are made before the collector of cycles looks at them; 700 by default.

A slice of rows is thousands of tuples that are gone soon and are in no cycle. To look at them again
and again was a fourteenth of a restore's processor time, and a look at everything took 50 ms.
"""

SWITCH_S: Final = 0.001
"""How long a thread goes on while another one waits; 5 ms by default.

While threads encode rows the event loop has to hand over those that are done: it waited, and the
database with it, for a twentieth of a restore's time.
"""


def set_interpreter() -> None:
    """Have the collector look seldom, and threads take turns often."""
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    sys.setswitchinterval(SWITCH_S)
