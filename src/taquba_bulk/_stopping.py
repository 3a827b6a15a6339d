"""Leaving an attempt that cannot continue now, through no fault of its item."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar, cast

E = TypeVar("E", bound=BaseException)


class Suspended(BaseException):
    """The batch is being stopped, and the attempt would need to wait.

    Not an `Exception`, so that a pipeline that catches exceptions does not treat it as a failure.
    """


class Attempts:
    """Counts the attempts under way, and those of them that were suspended.

    A suspended attempt stays where it is until the runtime is cancelled, which returns its job at
    once and without spending the attempt.
    """

    def __init__(self) -> None:
        self._held = 0
        self._parked = 0
        self._all_parked = asyncio.Event()

    def begun(self) -> None:
        """An attempt has begun."""
        self._held += 1
        self._look()

    def ended(self) -> None:
        """The attempt is over: its result is committed."""
        self._held -= 1
        self._look()

    async def park(self) -> NoReturn:
        """Wait until cancelled."""
        self._parked += 1
        self._look()
        try:
            while True:
                await asyncio.Event().wait()
        finally:
            self._parked -= 1
            self._look()

    async def all_parked(self) -> None:
        """Wait until only suspended attempts are under way."""
        await self._all_parked.wait()

    def _look(self) -> None:
        if self._held == self._parked > 0:
            self._all_parked.set()
        else:
            self._all_parked.clear()


def found_in(error: BaseException, kind: type[E]) -> E | None:
    """The first error of a kind in an exception of a pipeline, which may be a group."""
    if isinstance(error, kind):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    group = cast("BaseExceptionGroup[BaseException]", error)
    found = (found_in(inner, kind) for inner in group.exceptions)
    return next((inner for inner in found if inner is not None), None)
