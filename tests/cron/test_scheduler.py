from __future__ import annotations

import asyncio
from datetime import timedelta

import anyio
import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue
from taquba.testing import MockClock, OpenQueue
from taquba_cron import (
    AlreadyRunning,
    CronScheduler,
    DuplicateSchedule,
    InvalidCronExpression,
    UnknownTimezone,
    firing_time,
)
from tests.crash.held_engine import hold_engine
from tests.cron.support import at, fired, worked_on


async def test_each_firing_enqueues_one_job_at_its_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "*/10 * * * *", "q", b"x", headers={"a": "b"}, priority=7)
    async with scheduler:
        await mock_clock.advance(599.999)
        assert await fired(queue) == []
        await mock_clock.advance(0.001)
        assert await fired(queue) == [at("00:10")]
        await mock_clock.advance(3600)
        assert await fired(queue) == [at(f"00:{n}") for n in range(10, 60, 10)] + [
            at("01:00"),
            at("01:10"),
        ]
    job = await queue.claim("q")
    assert job is not None
    assert (job.payload, job.headers, job.priority) == (b"x", {"a": "b"}, 7)
    assert (job.enqueued_at, firing_time(job.job)) == (at("00:10"), at("00:10"))
    assert job.job.dedup_key == f"cron:s:{round(at('00:10').timestamp() * 1000)}"


async def test_jobs_that_are_worked_on_at_once_are_not_enqueued_again(
    queue: Queue, mock_clock: MockClock
) -> None:
    """Claiming a job frees its dedup key, so only the recorded firing holds another one off."""
    first, second = CronScheduler(queue), CronScheduler(queue)
    for scheduler in (first, second):
        scheduler.schedule("s", "* * * * *", "q", b"")
    async with worked_on(queue) as seen:
        async with first, second:
            await mock_clock.advance(600)
        async with first:
            await mock_clock.advance(600)
    assert seen == [at(f"00:{n:02}") for n in range(1, 21)]


async def test_schedules_do_not_disturb_each_other(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    for n in range(50):
        scheduler.schedule(f"s{n}", "0 * * * *", f"q{n % 5}", b"")
    scheduler.schedule("other", "30 1 * * *", "other", b"")
    async with scheduler:
        await mock_clock.advance(2 * 3600)
    for n in range(5):
        assert await fired(queue, f"q{n}") == [at("01:00")] * 10 + [at("02:00")] * 10
    assert await fired(queue, "other") == [at("01:30")]


async def test_a_schedule_in_a_zone_follows_its_clocks(open_queue: OpenQueue) -> None:
    clock = MockClock(at("2030-03-09 12:00"))
    queue = await open_queue(clock=clock)
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "30 2 * * *", "q", b"", timezone="America/New_York")
    async with scheduler:
        await clock.advance(timedelta(days=2))
    assert await fired(queue) == [at("2030-03-10 07:00"), at("2030-03-11 06:30")]


async def test_schedules_can_be_added_and_removed_while_running(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    async with scheduler:
        await mock_clock.advance(90)
        scheduler.schedule("a", "* * * * *", "q", b"")
        await mock_clock.advance(60)
        assert await fired(queue) == [at("00:02")]
        scheduler.schedule("b", "* * * * *", "other", b"")
        await scheduler.remove("a")
        await mock_clock.advance(60)
        assert await fired(queue) == [at("00:02")]
        assert await fired(queue, "other") == [at("00:03")]
        # The name is free again, and nothing that was missed is made up for.
        scheduler.schedule("a", "* * * * *", "q", b"", catch_up="all")
        await mock_clock.advance(60)
        assert await fired(queue) == [at("00:02"), at("00:04")]


async def test_jitter_delays_jobs_but_not_their_firings(
    queue: Queue, mock_clock: MockClock
) -> None:
    scheduler = CronScheduler(queue)
    for n in range(20):
        scheduler.schedule(f"s{n}", "5 * * * *", "q", b"", jitter=timedelta(seconds=60))
    async with scheduler:
        await mock_clock.advance(5 * 60)
        delays = set[float]()
        for job in (await queue.list_jobs("q", "scheduled")).jobs:
            assert firing_time(job) == at("00:05")
            assert job.run_at is not None
            delays.add((job.run_at - at("00:05")).total_seconds())
        assert 10 < len(delays) <= 20
        assert min(delays) >= 0
        assert 10 < max(delays) <= 60
        await mock_clock.advance(60)
        assert (await queue.stats("q")).pending == 20


async def test_a_job_that_holds_the_key_of_a_firing_stands_for_it(
    queue: Queue, mock_clock: MockClock
) -> None:
    key = f"cron:s:{round(at('00:01').timestamp() * 1000)}"
    await queue.enqueue("q", b"", dedup_key=key)
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
    async with scheduler:
        await mock_clock.advance(60)
        async with worked_on(queue) as seen:
            await mock_clock.advance(60)
    assert seen == [at("00:01"), at("00:02")]


@pytest.mark.parametrize("event", [asyncio.Event, anyio.Event])
async def test_run_returns_when_it_is_told_to(
    queue: Queue, mock_clock: MockClock, event: type[asyncio.Event] | type[anyio.Event]
) -> None:
    shutdown = event()
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"")
    run = asyncio.create_task(scheduler.run(shutdown))
    await mock_clock.advance(60)
    with pytest.raises(AlreadyRunning):
        await scheduler.run()
    with pytest.raises(AlreadyRunning):
        await scheduler.__aenter__()
    shutdown.set()
    await run
    await mock_clock.advance(60)
    assert await fired(queue) == [at("00:01")]


async def test_entering_twice_is_refused_and_harmless(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"")
    async with scheduler:
        with pytest.raises(AlreadyRunning):
            async with scheduler:
                raise AssertionError("it runs already")
        await mock_clock.advance(60)
    async with scheduler:
        await mock_clock.advance(60)
    assert await fired(queue) == [at("00:01"), at("00:02")]


async def test_cancelled_run_can_be_run_again(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"")
    for minute in range(1, 4):
        run = asyncio.create_task(scheduler.run())
        await mock_clock.advance(60)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert len(await fired(queue)) == minute


async def test_between_firings_a_scheduler_sleeps(queue: Queue, mock_clock: MockClock) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 0 1 * *", "q", b"")
    async with scheduler:
        held = hold_engine(queue)
        await mock_clock.advance(timedelta(days=100))
    assert await fired(queue) == [at(f"2030-{month:02}-01 00:00") for month in (2, 3, 4)]
    # For each firing the commit looked at the record, and at the dedup key.
    assert held.calls["get"] == 3 * 2


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"expression": "61 * * * *"}, InvalidCronExpression, r"'61 \* \* \* \*'.*minute"),
        ({"expression": "0 0 30 2 *"}, InvalidCronExpression, "'0 0 30 2 "),
        ({"timezone": "Mars/Olympus"}, UnknownTimezone, "'Mars/Olympus'.*Europe/Berlin"),
        ({"name": "taken"}, DuplicateSchedule, "'taken'.*another name"),
        ({"name": ""}, InvalidArgument, "name of a schedule"),
        ({"name": "é" * 128}, InvalidArgument, "255 UTF-8 bytes"),
        ({"name": "a\nb"}, InvalidArgument, "control"),
        ({"name": "\ud800"}, InvalidArgument, "name of a schedule"),
        ({"name": 5}, InvalidArgumentType, "must be a str, not 5"),
        ({"queue_name": ""}, InvalidArgument, "queue name"),
        ({"payload": "text"}, InvalidArgumentType, "payload must be bytes"),
        ({"headers": {"a": 1}}, InvalidArgumentType, "headers"),
        ({"priority": -1}, InvalidArgument, "priority.*-1"),
        ({"max_attempts": 0}, InvalidArgument, "max_attempts.*0"),
        ({"jitter": -1}, InvalidArgument, "jitter.*-1"),
        ({"jitter": float("nan")}, InvalidArgument, "jitter.*nan"),
        ({"jitter": timedelta(days=2)}, InvalidArgument, "jitter.*day"),
        ({"jitter": "1"}, InvalidArgumentType, "jitter.*'1'"),
        ({"jitter": True}, InvalidArgumentType, "jitter.*True"),
        ({"catch_up": "some"}, InvalidArgument, "catch_up.*'some'"),
    ],
)
async def test_what_cannot_be_used_is_refused_at_registration(
    queue: Queue, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    scheduler = CronScheduler(queue)
    scheduler.schedule("taken", "* * * * *", "q", b"")
    arguments = {"name": "s", "expression": "* * * * *", "queue_name": "q", "payload": b""}
    with pytest.raises(error, match=message) as caught:
        scheduler.schedule(**(arguments | changed))  # type: ignore[arg-type]
    assert caught.value.permanent  # type: ignore[attr-defined]
    assert [info.name for info in await scheduler.schedules()] == ["taken"]


async def test_wrong_queue_and_wrong_event_are_refused(queue: Queue) -> None:
    with pytest.raises(InvalidArgumentType, match="store must be a Store"):
        CronScheduler("memory://")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentType, match="shutdown must be"):
        await CronScheduler(queue).run("now")  # type: ignore[arg-type]
