"""Virtual time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Final, NoReturn

from taquba._model.clock import Clock, Timer
from taquba._model.errors import StoreError
from taquba._model.validate import Duration, duration_ms, moment_ms

_START: Final = datetime(2030, 1, 1, tzinfo=UTC)
_QUIET_TURNS: Final = 25
"""Turns of the event loop without taquba work after which everything due counts as done."""

_STUCK_SECONDS: Final = 30.0


class _MockTimer:
    __slots__ = ("callback", "wall")

    def __init__(self, callback: Callable[[], None], *, wall: bool) -> None:
        self.wall = wall
        """Whether it waits for a time on the wall clock, which can be set."""
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class MockClock(Clock):
    """A clock that moves only by `advance` and `set_time`.

    Args:
        start: Time at the beginning, timezone-aware; 2030-01-01 UTC by default.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._now = moment_ms(start, "start")
        self._wall_offset = 0
        self._timers: list[tuple[int, int, _MockTimer]] = []
        """A heap: monotonic ms at which it is due, a number that keeps the order, the timer."""
        self._order = count()
        self._busy: list[Callable[[], bool]] = []

    def __reduce__(self) -> NoReturn:
        raise TypeError("the time of a MockClock passes in its own process only")

    def time_ms(self) -> int:
        """Virtual wall time, in ms since the Unix epoch."""
        return self._now + self._wall_offset

    def monotonic_ms(self) -> int:
        """Virtual monotonic time, in ms; setting the wall clock does not move it."""
        return self._now

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` when the clock has advanced by `delay_ms`."""
        return self._arm(self._now + max(0, delay_ms), _MockTimer(callback, wall=False))

    def call_at(self, time_ms: int, recheck_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` when the clock has moved to `time_ms`, or was set back before."""
        del recheck_ms  # `set_time` looks at the timers at once
        return self._arm(time_ms - self._wall_offset, _MockTimer(callback, wall=True))

    def attach(self, busy: Callable[[], bool]) -> None:
        """Register a queue that runs on this clock."""
        self._busy.append(busy)

    async def advance(self, duration: Duration) -> None:
        """Advance by `duration` seconds, stopping at every deadline on the way.

        When it returns, all taquba work that became due has run: jobs were promoted, expired leases
        were taken back, waits have ended, and retention was applied. Handlers that were woken have
        run until they wait for something else.
        """
        end = self._now + duration_ms(duration, "duration")
        await self._settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self._now = max(self._now, due)
            timer.callback()
            while self._timers and self._timers[0][0] <= self._now:
                self._fire_next()
            await self._settle()
        self._now = max(self._now, end)

    async def set_time(self, moment: datetime) -> None:
        """Set the wall clock forward or back, as an operator or a time server would.

        Leases, waits and other durations do not move; everything that waits for a time of day does.
        When it returns, all taquba work that became due has run.

        Args:
            moment: The new wall time, timezone-aware.
        """
        jump = moment_ms(moment, "moment") - self.time_ms()
        self._wall_offset += jump

        def due_now(due: int, timer: _MockTimer) -> int:
            if not timer.wall:
                return due
            return self._now if jump < 0 else due - jump

        self._timers = [(due_now(due, timer), order, timer) for due, order, timer in self._timers]
        heapq.heapify(self._timers)
        await self.advance(0)

    def _fire_next(self) -> None:
        _, _, timer = heapq.heappop(self._timers)
        if timer.callback is not None:
            timer.callback()

    def _arm(self, due: int, timer: _MockTimer) -> Timer:
        if due <= self._now:
            asyncio.get_running_loop().call_soon(self._fire, timer)
        else:
            heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    @staticmethod
    def _fire(timer: _MockTimer) -> None:
        if timer.callback is not None:
            timer.callback()

    async def _settle(self) -> None:
        """Wait until everything that runs on this clock is idle."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _STUCK_SECONDS
        quiet = 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            if any(busy() for busy in self._busy):
                quiet = 0
                await asyncio.sleep(0.0002)
                if loop.time() > give_up:
                    raise StoreError(f"a queue was still busy after {_STUCK_SECONDS:g} real s")
            else:
                quiet += 1
