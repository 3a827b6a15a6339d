from __future__ import annotations

import asyncio
import time

from taquba import SystemClock

RECHECK_MS = 5
REAL_SECONDS = 30
"""Bound on what a test waits for in real time; nothing here takes nearly as long."""


class SettableClock(SystemClock):
    """The machine's clock, but its wall time can be set."""

    offset_ms = 0

    def time_ms(self) -> int:
        return super().time_ms() + self.offset_ms


async def ends(clock: SettableClock, due: int, offset_ms: int) -> float:
    """Seconds that a timer for the wall time `due` sleeps when the clock is set while it does."""
    fired = asyncio.Event()
    clock.call_at(due, RECHECK_MS, fired.set)
    await asyncio.sleep(0)
    clock.offset_ms += offset_ms
    started = time.monotonic()
    async with asyncio.timeout(REAL_SECONDS):
        await fired.wait()
    return time.monotonic() - started


async def test_a_timer_notices_that_the_clock_is_set_forwards() -> None:
    clock = SettableClock()
    due = clock.time_ms() + 3_600_000
    await ends(clock, due, 3_600_000)
    assert clock.time_ms() >= due


async def test_a_timer_notices_that_the_clock_is_set_back() -> None:
    clock = SettableClock()
    due = clock.time_ms() + 3_600_000
    await ends(clock, due, -3_600_000)
    assert clock.time_ms() < due - 3_600_000 + REAL_SECONDS * 1000


async def test_a_timer_does_not_end_early_while_nobody_sets_the_clock() -> None:
    clock = SettableClock()
    due = clock.time_ms() + 100
    await ends(clock, due, 0)
    assert clock.time_ms() >= due


async def test_a_step_back_that_is_too_small_to_matter_only_makes_the_timer_wait() -> None:
    clock = SettableClock()
    due = clock.time_ms() + 50
    await ends(clock, due, -50)
    assert clock.time_ms() >= due
