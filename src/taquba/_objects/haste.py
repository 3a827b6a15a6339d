"""The time that closing has while its event loop ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

from taquba._model.errors import StoreError
from taquba._objects.limits import LAST_SECONDS

_log: Final = logging.getLogger(__name__)


class Haste:
    """One deadline that all steps of a closing share, once their event loop is to end.

    Whoever ends the event loop kills the process soon. Until `begin`, each step has its own bounds.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deadline: float | None = None
        self._limit: asyncio.Timeout | None = None
        """That of the step under way."""
        self._cut_off = False

    @property
    def begun(self) -> bool:
        """Whether there is a deadline."""
        return self._deadline is not None

    def begin(self) -> None:
        """The event loop is to end: a moment is left. It need not run."""
        if self._deadline is None:
            self._deadline = self._loop.time() + LAST_SECONDS
            # A limit can be moved only while the event loop runs.
            self._loop.call_soon(self._shorten)

    def _shorten(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._deadline)

    async def bound(self, step: Awaitable[object]) -> None:
        """Await a step, which is cancelled at the deadline."""
        limit = self._limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                await step
        except TimeoutError:
            if not limit.expired():
                raise
            self._cut_off = True
        finally:
            self._limit = None

    def check(self) -> None:
        """Raise, and log, `StoreError` if a step was cancelled."""
        if self._cut_off:
            error = StoreError(
                f"the event loop ended, and the store did not answer within {LAST_SECONDS:g} s: "
                "it was left as it is after a crash, and what was acknowledged is durable"
            )
            _log.error("%s", error)
            raise error
