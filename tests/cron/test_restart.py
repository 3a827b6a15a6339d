"""What a schedule does about the time in which nobody was there."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest

from taquba import Queue
from taquba.testing import MockClock, OpenQueue
from taquba_cron import CATCH_UP_LIMIT, CatchUp, CronScheduler
from tests.cron.support import at, fired, worked_on


class Program:
    """A program that schedules one thing, and is started again and again on one store."""

    def __init__(self, open_queue: OpenQueue, clock: MockClock, url: str) -> None:
        self.open_queue = open_queue
        self.clock = clock
        self.url = url
        self.seen: list[datetime] = []

    async def runs_for(
        self,
        seconds: float,
        expression: str = "0 * * * *",
        *,
        catch_up: CatchUp = "none",
        timezone: str = "UTC",
    ) -> list[datetime]:
        queue = await self.open_queue(self.url)
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", expression, "q", b"", catch_up=catch_up, timezone=timezone)
        async with worked_on(queue) as seen, scheduler:
            await self.clock.advance(seconds)
        await queue.close()
        self.seen += seen
        return list(self.seen)

    async def is_down_for(self, seconds: float) -> None:
        await self.clock.advance(seconds)


@pytest.fixture
def program(
    request: pytest.FixtureRequest, open_queue: OpenQueue, mock_clock: MockClock
) -> Program:
    name = re.sub(r"\W", "-", request.node.name)
    return Program(open_queue, mock_clock, f"memory://{name}")


def hours(*numbers: int) -> list[datetime]:
    return [at("00:00") + timedelta(hours=number) for number in numbers]


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [("none", ()), ("latest", (5,)), ("all", (2, 3, 4, 5))],
)
async def test_missed_firings_are_made_up_for_as_asked(
    program: Program, catch_up: CatchUp, made_up_for: tuple[int, ...]
) -> None:
    assert await program.runs_for(5400) == hours(1)
    await program.is_down_for(4 * 3600)
    assert await program.runs_for(0, catch_up=catch_up) == hours(1, *made_up_for)
    # Once is enough.
    assert await program.runs_for(0, catch_up=catch_up) == hours(1, *made_up_for)
    assert await program.runs_for(3600, catch_up=catch_up) == hours(1, *made_up_for, 6)


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_a_new_schedule_has_missed_nothing(program: Program, catch_up: CatchUp) -> None:
    assert await program.runs_for(0, catch_up=catch_up) == []


async def test_the_first_firing_can_be_missed_too(program: Program) -> None:
    await program.runs_for(60)
    await program.is_down_for(3600)
    assert await program.runs_for(0, catch_up="latest") == hours(1)


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_a_restart_within_the_minute_of_a_firing_does_not_repeat_it(
    program: Program, catch_up: CatchUp
) -> None:
    assert await program.runs_for(3600, catch_up=catch_up) == hours(1)
    for _ in range(3):
        await program.is_down_for(5)
        assert await program.runs_for(5, catch_up=catch_up) == hours(1)


async def test_a_firing_at_the_moment_of_the_start_counts_as_missed(program: Program) -> None:
    await program.runs_for(1800)
    await program.is_down_for(1800)
    assert await program.runs_for(0) == []
    assert await program.runs_for(0, catch_up="latest") == hours(1)


async def test_catching_up_is_bounded(program: Program) -> None:
    await program.runs_for(30, "* * * * *")
    await program.is_down_for(2 * CATCH_UP_LIMIT * 60)
    found = await program.runs_for(0, "* * * * *", catch_up="all")
    assert len(found) == CATCH_UP_LIMIT
    assert found[-1] == at("00:00") + 2 * CATCH_UP_LIMIT * timedelta(minutes=1)
    assert found[0] == found[-1] - (CATCH_UP_LIMIT - 1) * timedelta(minutes=1)
    assert await program.runs_for(60, "* * * * *", catch_up="all") == [
        *found,
        found[-1] + timedelta(minutes=1),
    ]


async def test_a_changed_expression_or_zone_makes_up_for_nothing(program: Program) -> None:
    assert await program.runs_for(5400) == hours(1)
    await program.is_down_for(4 * 3600)
    assert await program.runs_for(0, "15 * * * *", catch_up="all") == hours(1)
    await program.is_down_for(3600)
    zone = "Asia/Kolkata"
    assert await program.runs_for(0, "15 * * * *", timezone=zone, catch_up="all") == hours(1)
    assert (await program.runs_for(3600, "15 * * * *", timezone=zone))[1:] == [at("06:45")]


async def test_one_scheduler_object_that_stopped_and_runs_again_was_away(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("none", "0 * * * *", "none", b"")
    scheduler.schedule("all", "0 * * * *", "all", b"", catch_up="all")
    for _ in range(2):
        async with scheduler:
            await mock_clock.advance(3600)
        await mock_clock.advance(3600)
    assert await fired(queue, "none") == hours(1, 3)
    assert await fired(queue, "all") == hours(1, 2, 3)
