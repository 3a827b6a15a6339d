"""Bytes that several connections share: a request for more than is left waits for its turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Budget:
    """A number of bytes; a request for more than all of them waits until nobody else has any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until there are that many bytes, and take them, in the order of the requests."""
        if not self._waiting and self._fits(size):
            self._taken += size
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            elif entry in self._waiting:
                # Otherwise it was passed over: it was cancelled before its turn came.
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, size: int) -> None:
        """Return bytes."""
        self._taken -= size
        self._serve()

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncGenerator[None]:
        """Take bytes for the length of a block."""
        await self.take(size)
        try:
            yield
        finally:
            self.give(size)

    def _fits(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._limit

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._taken += size
                turn.set_result(None)
