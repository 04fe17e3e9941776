"""What attaching a database needs of it; ``adapters.postgres.attachable`` has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pitr.domain.pgoutput.attach import AttachNames, AttachOptions, AttachPlan
from pitr.domain.pgoutput.attach_results import Detached, Done
from pitr.domain.pgoutput.selection import Selection


class Attachable(Protocol):
    """A database that answers. All raise ``Unavailable`` once it does not."""

    async def name(self) -> str:
        """Return what the database is called.

        Raises:
            InvalidRequest: It is a catalog of pitr's.
        """
        ...

    async def plan(
        self, names: AttachNames, *, selection: Selection, options: AttachOptions
    ) -> AttachPlan:
        """Plan what attaching makes; nothing is changed."""
        ...

    async def apply(self, plan: AttachPlan) -> tuple[Done, ...]:
        """Make what is missing, in order."""
        ...

    async def detach(self, names: AttachNames, *, terminate: bool) -> Detached:
        """Take away what attaching made; with ``terminate`` end pitr's own stream first.

        Raises:
            Conflict: Somebody uses the slot; nothing was taken away.
        """
        ...


Connect = Callable[[str], AbstractAsyncContextManager[Attachable]]
"""Connects to the database of a URL, and lets go at the end."""
