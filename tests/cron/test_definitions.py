"""Processes that define one schedule differently, as releases do during a deploy."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taquba import InboxConfig, Queue, Service, Store
from taquba.testing import MockClock
from taquba_cron import CronScheduler, list_schedules
from tests.cron.support import at, fired

SECONDS = 30

OPTIONS: dict[str, Any] = {
    # The owner need not look into an inbox every second of a virtual clock.
    "inbox": InboxConfig(poll_interval=24 * 3600, idle_poll_interval=24 * 3600),
    "fsync": False,
}


def hourly(store: Store) -> CronScheduler:
    scheduler = CronScheduler(store)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    return scheduler


def half_past(store: Store) -> CronScheduler:
    scheduler = CronScheduler(store)
    scheduler.schedule("s", "30 * * * *", "q", b"")
    return scheduler


NEWER = """
import asyncio, sys
from taquba import Service
from taquba_cron import CronScheduler

async def main():
    service = Service(sys.argv[1], role="producer", fsync=False)
    scheduler = CronScheduler(service)
    scheduler.schedule("s", "0 0 1 1 *", "q", b"")
    async with service, scheduler:
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Processes:
    """An owner, and processes with a scheduler each: as many members in this one."""

    def __init__(self, place: Path, clock: MockClock, owner: Queue) -> None:
        self.owner = owner
        self.place = place
        self._clock = clock

    @asynccontextmanager
    async def process(self, made: Callable[[Store], CronScheduler]) -> AsyncIterator[CronScheduler]:
        service = Service(self.place, role="producer", clock=self._clock, **OPTIONS)
        # As in a module: made before the service is entered.
        scheduler = made(service)
        async with service, scheduler:
            yield scheduler


@pytest.fixture
async def processes(short_path: Path, mock_clock: MockClock) -> AsyncIterator[Processes]:
    place = short_path / "s"
    async with Queue.open(place, producer_socket=True, clock=mock_clock, **OPTIONS) as owner:
        yield Processes(place, mock_clock, owner)


async def test_each_firing_makes_one_job_whichever_process_is_first(
    processes: Processes, mock_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        schedulers = [await stack.enter_async_context(processes.process(hourly)) for _ in range(4)]
        await mock_clock.advance(3 * 3600)
        assert await fired(processes.owner) == [at("01:00"), at("02:00"), at("03:00")]
        # Each of them can pause it for all of them.
        await schedulers[0].pause("s")
        assert [(await one.schedules())[0].paused for one in schedulers] == [True] * 4
        await mock_clock.advance(3600)
        await schedulers[3].resume("s")
        await mock_clock.advance(3600)
        await CronScheduler(processes.owner).remove("s")
    assert (await fired(processes.owner))[3:] == [at("05:00")]


async def test_the_newer_definition_fires_and_the_older_one_says_once_that_it_rests(
    processes: Processes, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes.process(hourly) as old:
        await mock_clock.advance(3600)
        async with processes.process(half_past) as new:
            await mock_clock.advance(3 * 3600)
            assert (await old.schedules()) == (await new.schedules())
            (known,) = await list_schedules(processes.owner)
            assert known.expression == "30 * * * *"
    assert await fired(processes.owner) == [at("01:00"), at("01:30"), at("02:30"), at("03:30")]
    (told,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "'s' was defined anew by another process" in told.message


@pytest.mark.parametrize(
    "change", [{"queue_name": "other"}, {"payload": b"other"}, {"jitter": 1}, {"catch_up": "all"}]
)
async def test_anything_that_is_registered_belongs_to_the_definition(
    processes: Processes, mock_clock: MockClock, change: dict[str, Any]
) -> None:
    def changed(store: Store) -> CronScheduler:
        scheduler = CronScheduler(store)
        scheduler.schedule(
            "s", "0 * * * *", **({"queue_name": "q", "payload": b""} | change | {"priority": 7})
        )
        return scheduler

    async with processes.process(hourly), processes.process(changed):
        await mock_clock.advance(3602)
    claim = await processes.owner.claim(change.get("queue_name", "q"))
    assert claim is not None
    assert (claim.priority, claim.payload) == (7, change.get("payload", b""))
    assert len(await fired(processes.owner)) + len(await fired(processes.owner, "other")) == 1


async def test_a_process_of_the_older_release_that_starts_again_rests_as_well(
    processes: Processes, mock_clock: MockClock
) -> None:
    async with processes.process(half_past):
        pass
    async with processes.process(hourly):
        async with processes.process(half_past):
            await mock_clock.advance(3600)
        async with processes.process(half_past):
            await mock_clock.advance(3600)
    assert await fired(processes.owner) == [at("01:00"), at("02:00")]


async def test_a_release_that_is_rolled_back_to_fires_when_no_process_has_the_newer_one(
    processes: Processes, mock_clock: MockClock
) -> None:
    async with processes.process(hourly):
        async with processes.process(half_past):
            await mock_clock.advance(1800 + 60)
            async with processes.process(half_past):
                pass
            # It has ended, but was not the last of its kind; the other one has fired.
        assert await fired(processes.owner) == [at("00:30")]
        await mock_clock.advance(3 * 3600)
        assert await fired(processes.owner) == [at("00:30"), at("01:00"), at("02:00"), at("03:00")]
        # Deployed again, it is the newer one again, at once.
        async with processes.process(half_past):
            await mock_clock.advance(3600)
            assert (await fired(processes.owner))[4:] == [at("04:30")]


async def test_a_process_with_the_newer_definition_that_is_killed_counts_no_longer(
    processes: Processes, mock_clock: MockClock
) -> None:
    async with processes.process(hourly):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NEWER, str(processes.place)), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            await mock_clock.advance(3600)
            assert await fired(processes.owner) == []
        finally:
            process.kill()
            await process.wait()
        async with asyncio.timeout(SECONDS):
            while process.pid in [one.pid for one in await processes.owner.members()]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await mock_clock.advance(2 * 3600)
        assert await fired(processes.owner) == [at("02:00"), at("03:00")]


async def test_a_program_whose_expression_is_changed_back_and_forth_follows_at_once(
    processes: Processes, mock_clock: MockClock
) -> None:
    for made in (hourly, half_past, hourly, half_past, hourly):
        async with processes.process(made) as scheduler:
            (known,) = await scheduler.schedules()
            assert (known.next_fire or at("00:00")).minute == (0 if made is hourly else 30)
            await mock_clock.advance(3600)
    minutes = [firing.minute for firing in await fired(processes.owner)]
    assert minutes == [0, 30, 0, 30, 0]


async def test_a_scheduler_that_stops_in_a_process_that_goes_on_leaves_it_to_the_others(
    processes: Processes, mock_clock: MockClock
) -> None:
    older, newer = hourly(processes.owner), half_past(processes.owner)
    async with older:
        async with newer:
            await mock_clock.advance(3600)
        await mock_clock.advance(3600 + 5)
    assert await fired(processes.owner) == [at("00:30"), at("02:00")]


async def test_a_pause_belongs_to_the_name_not_to_a_definition(
    processes: Processes, mock_clock: MockClock
) -> None:
    async with processes.process(hourly) as old:
        await old.pause("s")
        async with processes.process(half_past) as new:
            await mock_clock.advance(3600)
            assert await fired(processes.owner) == []
            await old.resume("s")
            await mock_clock.advance(3600)
            assert (await new.schedules())[0].expression == "30 * * * *"
    assert await fired(processes.owner) == [at("01:30")]


async def test_what_a_pause_has_dropped_is_not_made_up_for_under_another_definition(
    processes: Processes, mock_clock: MockClock
) -> None:
    def frequent(store: Store) -> CronScheduler:
        scheduler = CronScheduler(store)
        scheduler.schedule("s", "*/20 * * * *", "q", b"", catch_up="all")
        return scheduler

    async with processes.process(frequent) as old:
        await old.pause("s")
        async with processes.process(half_past):
            await mock_clock.advance(3600 - 5 * 60)
            await old.resume("s")
        await mock_clock.advance(10 * 60)
    assert await fired(processes.owner) == [at("01:00")]
