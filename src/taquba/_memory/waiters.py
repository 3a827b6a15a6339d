"""Waiters: one wakeup per job that becomes ready, in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque


class Waiters:
    """Callers that wait for a job of one queue: to claim it, or only to be notified.

    Callers that are only notified do not keep the job from those that claim: a wakeup of one of
    them is passed on to the next that claims.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._looking: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, *, looking: bool = False) -> asyncio.Future[None]:
        """A future that `wake` finishes."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if looking:
            self._looking.add(future)
        return future

    def leave(self, future: asyncio.Future[None], *, pass_on: bool) -> None:
        """Stop waiting. A caller that was woken but takes no job passes the wakeup on."""
        self._looking.discard(future)
        if not future.done():
            future.cancel()
            self._waiting.remove(future)
        elif pass_on and not future.cancelled():
            self.wake()

    def wake(self, count: int = 1) -> None:
        waiting = self._waiting
        while count > 0 and waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1

    def wake_claimer(self) -> None:
        """There is a job to claim; the callers that only look were already notified."""
        for future in self._waiting:
            if future not in self._looking:
                self._waiting.remove(future)
                future.set_result(None)
                return

    def wake_all(self) -> None:
        self.wake(len(self._waiting))
