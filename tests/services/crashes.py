"""Kills a service between any two steps: before or after any call to the catalog or the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Crash(BaseException):
    """The process is gone. Not an Exception: no handler may survive it."""


class Fuse:
    """Burns down by one with every call; at zero it crashes, before or after the call's effect."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.after_effect = False
        self.steps = 0

    def light(self, steps: int, *, after_effect: bool) -> None:
        self.left, self.after_effect = steps, after_effect

    def out(self) -> None:
        self.left = None

    def burns(self) -> Iterator[bool]:
        """Yield once before and once after a call; True crashes there."""
        self.steps += 1
        if self.left is None:
            yield from (False, False)
            return
        here = self.left == 0
        self.left = None if here else self.left - 1
        yield here and not self.after_effect
        yield here and self.after_effect


class Fused:
    """A catalog or store whose every call may be the last."""

    def __init__(self, real: Any, fuse: Fuse) -> None:
        self._real = real
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            before, after = self._fuse.burns()
            if before:
                raise Crash(f"before {name}")
            answer = await method(*args, **kwargs)
            if after:
                raise Crash(f"after {name}")
            return answer

        return call


class Killed:
    """A catalog of a process that is killed ``before``, or ``after`` the effect of, one call.

    Or at the ``next`` call after it. Nothing that the process does later comes to anything.
    """

    def __init__(self, real: Any, at: str, when: str) -> None:
        self._real, self._at, self._when = real, at, when
        self._is_dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        async def call(*args: Any, **rest: Any) -> Any:
            here = name == self._at
            self._is_dead = self._is_dead or (here and self._when == "before")
            if self._is_dead:
                raise Crash(name)
            answer = await method(*args, **rest)
            self._is_dead = here
            if here and self._when == "after":
                raise Crash(name)
            return answer

        return call
