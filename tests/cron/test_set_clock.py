"""The wall clock is set while a scheduler runs: nothing fires twice, nothing stops firing."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import Queue
from taquba.testing import MockClock
from taquba_cron import CatchUp, CronScheduler
from tests.cron.support import at, worked_on


def minutes(start: str, count: int) -> list[datetime]:
    return [at(start) + n * timedelta(minutes=1) for n in range(count)]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", minutes("00:01", 2) + minutes("08:01", 2)),
        ("latest", minutes("00:01", 2) + minutes("08:00", 3)),
        ("all", minutes("00:01", 60 * 8 + 2)),
    ],
)
async def test_set_forwards(
    queue: Queue, mock_clock: MockClock, catch_up: CatchUp, expected: list[datetime]
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"", catch_up=catch_up)
    async with worked_on(queue) as seen, scheduler:
        await mock_clock.advance(150)
        # Far enough behind 08:00 for that not to count as on time.
        await mock_clock.set_time(at("08:00:59.999"))
        if catch_up == "none":
            expected = sorted([*expected, at("08:00")])
        await mock_clock.advance(90)
        assert seen == expected


async def test_set_forwards_by_seconds_drops_nothing(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    async with worked_on(queue) as seen, scheduler:
        await mock_clock.advance(3590)
        await mock_clock.set_time(at("01:00:05"))
    assert seen == [at("01:00")]


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.parametrize("back", [timedelta(seconds=30), timedelta(hours=1), timedelta(hours=20)])
async def test_set_back_fires_nothing_twice_and_goes_on(
    queue: Queue, mock_clock: MockClock, catch_up: CatchUp, back: timedelta
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "*/10 * * * *", "q", b"", catch_up=catch_up)
    async with worked_on(queue) as seen, scheduler:
        await mock_clock.advance(24 * 3600 + 60)
        before = list(seen)
        assert len(before) == 24 * 6
        await mock_clock.set_time(mock_clock.now() - back)
        (info,) = await scheduler.schedules()
        assert info.next_fire == at("2030-01-02 00:10")
        await mock_clock.advance(back)
        assert seen == before
        await mock_clock.advance(600)
        assert seen == [*before, at("2030-01-02 00:10")]


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_that_was_wrong_and_is_put_right_does_not_silence_a_schedule(
    queue: Queue, mock_clock: MockClock, catch_up: CatchUp, restart: bool
) -> None:
    def scheduler() -> CronScheduler:
        made = CronScheduler(queue)
        made.schedule("s", "0 * * * *", "q", b"", catch_up=catch_up)
        return made

    async with worked_on(queue) as seen:
        async with scheduler():
            await mock_clock.advance(3600)
            await mock_clock.set_time(at("2030-01-08 00:00"))
            await mock_clock.advance(3600)
            if not restart:
                await mock_clock.set_time(at("01:30"))
                await mock_clock.advance(3600)
        if restart:
            await mock_clock.set_time(at("01:30"))
            async with scheduler():
                await mock_clock.advance(3600)
    found = sorted(seen)
    assert found.count(at("2030-01-08 01:00")) == 1
    if catch_up != "all":
        # Under the wrong clock, "all" made up for these already.
        found = [firing for firing in found if firing < at("2030-01-07 12:00")]
        assert found == [at("01:00"), at("02:00")]
    else:
        assert found == [at("00:00") + n * timedelta(hours=1) for n in range(1, 7 * 24 + 2)]


async def test_a_schedule_that_began_under_a_wrong_clock_fires_under_the_right_one(
    queue: Queue, mock_clock: MockClock
) -> None:
    await mock_clock.set_time(at("2099-01-01 00:00"))
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"", catch_up="all")
    async with worked_on(queue) as seen, scheduler:
        await mock_clock.advance(60)
        await mock_clock.set_time(at("00:30"))
        await mock_clock.advance(3600)
    assert seen == [at("01:00")]


MINUTE = 60
steps = st.lists(
    st.tuples(st.just("advance"), st.integers(0, 50 * MINUTE))
    | st.tuples(st.just("set"), st.integers(-90 * MINUTE, 90 * MINUTE))
    | st.tuples(st.just("restart"), st.just(0)),
    max_size=12,
)


@given(steps, st.sampled_from(["none", "latest", "all"]))
async def test_whatever_is_done_to_the_clock(
    steps: list[tuple[str, int]], catch_up: CatchUp
) -> None:
    clock = MockClock(at("12:00"))
    async with Queue.open("memory://", clock=clock) as queue:

        def scheduler() -> CronScheduler:
            made = CronScheduler(queue)
            made.schedule("s", "*/15 * * * *", "q", b"", catch_up=catch_up)
            return made

        async with worked_on(queue) as seen:
            running = await scheduler().__aenter__()
            for step, seconds in steps:
                if step == "advance":
                    await clock.advance(seconds)
                elif step == "set":
                    await clock.set_time(clock.now() + timedelta(seconds=seconds))
                else:
                    await running.__aexit__(None, None, None)
                    running = await scheduler().__aenter__()
            # From here on nobody touches the clock: what did not fire yet, fires at its time.
            start = clock.now()
            await clock.advance(3600)
            await running.__aexit__(None, None, None)
    assert set(Counter(seen).values()) <= {1}
    quarter = timedelta(minutes=15)
    next_quarter = start + quarter - (start - at("00:00")) % quarter
    assert {next_quarter + n * quarter for n in range(4)} <= set(seen)
