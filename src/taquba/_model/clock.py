"""Time. Every timestamp and deadline of a queue comes from its `Clock`."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SET_BACK_MS: Final = 1000
"""How far wall time must fall behind monotonic time to count as set back."""


class Timer(Protocol):
    """A pending callback of a `Clock`."""

    def cancel(self) -> None:
        """Cancel the callback; has no effect if it has already run."""


class Clock(ABC):
    """Source of time and timers for one or more queues of an event loop.

    Wall time (`time_ms`) stamps records and decides when a scheduled job is due; it may jump.
    Monotonic time (`monotonic_ms`) measures leases and waits; it never goes back.
    """

    @abstractmethod
    def time_ms(self) -> int:
        """Wall time in milliseconds since the Unix epoch, UTC."""

    @abstractmethod
    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""

    @abstractmethod
    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, `delay_ms` of monotonic time from now."""

    @abstractmethod
    def call_at(self, time_ms: int, recheck_ms: int, callback: Callable[[], None]) -> Timer:
        """Run `callback` once: when wall time reaches `time_ms`, or when it is set back before.

        A real clock can be set while a timer sleeps, so it checks the time at least every
        `recheck_ms`. The callback must read the time again: after the clock was set back, something
        else may be next.
        """

    def now(self) -> datetime:
        """Wall time as an aware UTC datetime."""
        return from_ms(self.time_ms())

    def attach(self, busy: Callable[[], bool]) -> None:  # noqa: B027 - a real clock has no use for it
        """Register a queue that runs on this clock: `busy()` is True while it has work to do.

        A virtual clock waits for that work before it advances; a real clock ignores it.
        """


class SystemClock(Clock):
    """The machine's clock."""

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_ms / 1000, callback)

    def call_at(self, time_ms: int, recheck_ms: int, callback: Callable[[], None]) -> Timer:
        return _WallTimer(self, time_ms, recheck_ms, callback)


class _WallTimer:
    """A timer against wall time: sleeps in slices, because the wall clock can be set."""

    __slots__ = ("_armed_at", "_callback", "_clock", "_recheck_ms", "_time_ms", "_timer")

    def __init__(
        self, clock: Clock, time_ms: int, recheck_ms: int, callback: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._time_ms = time_ms
        self._recheck_ms = recheck_ms
        self._callback = callback
        self._timer = self._arm()

    def _arm(self) -> Timer:
        self._armed_at = self._clock.time_ms(), self._clock.monotonic_ms()
        remaining = self._time_ms - self._armed_at[0]
        return self._clock.call_later(max(0, min(remaining, self._recheck_ms)), self._look)

    def _look(self) -> None:
        now = self._clock.time_ms()
        wall, monotonic = self._armed_at
        expected = wall + self._clock.monotonic_ms() - monotonic
        if now >= self._time_ms or now < expected - _SET_BACK_MS:
            self._callback()
        else:
            self._timer = self._arm()

    def cancel(self) -> None:
        self._timer.cancel()


def from_ms(ms: int) -> datetime:
    """Milliseconds since the Unix epoch as an aware UTC datetime."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(moment: datetime) -> int:
    """An aware datetime as milliseconds since the Unix epoch, rounded to the nearest."""
    return round(moment.timestamp() * 1000)


async def wait_until_done(future: asyncio.Future[Any], clock: Clock, timeout_ms: int) -> bool:
    """Wait for `future` for at most `timeout_ms` on `clock`; True if it finished.

    A timeout does not cancel the future.
    """
    if future.done():
        return True
    if timeout_ms <= 0:
        return False
    woken = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    timer = clock.call_later(timeout_ms, wake)
    future.add_done_callback(wake)
    try:
        await woken
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()
