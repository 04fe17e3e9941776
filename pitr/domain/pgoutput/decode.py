"""A part of the stream as changes: thousands of messages at once, in Arrow and numpy.

Rows are sorted by table, kind and shape; in each such group all rows are read column by column.
The documents of all of them are then put together in one step, in stream order: each is a run of
slices of the messages' own bytes and of literals (``render``).

A message that cannot be read goes to quarantine and takes a position like a change (invariant 13).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.batch import Decoded
from pitr.domain.change import DOCUMENT_BYTES_MAX, KEY_BYTES_MAX, Op, Quarantined
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.keys import BadKey, canonical_key
from pitr.domain.pgoutput.flaws import BAD_MESSAGE, Flaw
from pitr.domain.pgoutput.messages import BadMessage, Truncate, truncate_of
from pitr.domain.pgoutput.model import Part, Relation, Transaction
from pitr.domain.pgoutput.render import Column, Literals, NotUtf8, lay_out, render
from pitr.domain.pgoutput.rows import DELETE, INSERT, UPDATE, Flawed, Rows, moved, read_rows
from pitr.domain.pgoutput.transactions import (
    BEGIN_KIND,
    COMMIT_KIND,
    MESSAGE_KIND,
    TransactionColumns,
    Transactions,
)
from pitr.domain.pgoutput.tuples import PADDING, Mask, Places, Slices, Source
