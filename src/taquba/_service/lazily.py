"""What is opened when it is first needed, and closed at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from taquba._model.errors import TaqubaError
from taquba._model.own_tasks import only_it_was_cancelled

T = TypeVar("T")


class Lazily(Generic[T]):
    """One for all callers; a failed opening is repeated by the next of them.

    Args:
        opened: Opens it.
        closed: Closes it.
    """

    def __init__(
        self, opened: Callable[[], Awaitable[T]], closed: Callable[[T], Awaitable[None]]
    ) -> None:
        self._opened = opened
        self._closed = closed
        self._opening: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """It; raises what its opening fails with."""
        while True:
            opening = self._opening
            if opening is None or opening.cancelled() or _has_failed(opening):
                opening = self._opening = asyncio.ensure_future(self._opened())
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                if not only_it_was_cancelled(opening):
                    raise

    async def close(self) -> None:
        """Close it, if it was opened."""
        opening, self._opening = self._opening, None
        if opening is not None:
            # Not by awaiting it: it may have been cancelled.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                with contextlib.suppress(TaqubaError):
                    await self._closed(opening.result())


def _has_failed(opening: asyncio.Future[T]) -> bool:
    return opening.done() and opening.exception() is not None
