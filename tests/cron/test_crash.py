"""The store fails, or the process is killed: every firing has its job, and none has two."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from slatedb.uniffi import Error

from taquba import Queue, QueueClosed, StoreError, StoreFenced, TaqubaError
from taquba.testing import MockClock
from taquba_cron import CronScheduler
from tests.conftest import LONG
from tests.crash.held_engine import hold_engine
from tests.cron.cron_child import CONFIG
from tests.cron.fast_clock import FastClock
from tests.cron.support import at, fired, turns_until, worked_on

KILLS = 40 if LONG else 4
CHILD = Path(__file__).with_name("cron_child.py")
MINUTE = timedelta(minutes=1)


def assert_every_minute(found: list[datetime]) -> None:
    assert found == [found[0] + n * MINUTE for n in range(len(found))]


async def every_minute_fired(store: str, origin: float, least: int) -> None:
    """One more scheduler makes up for what is missing; then every minute has fired once."""
    clock = FastClock(origin)
    async with Queue.open(store, default_config=CONFIG, clock=clock, fsync=False) as queue:
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
        end = clock.now() - MINUTE
        async with scheduler:
            found = await fired(queue)
    assert_every_minute(found)
    assert found[-1] >= end
    assert len(found) > least


def work_until_killed(store: str, origin: float, seconds: float) -> None:
    command = [sys.executable, str(CHILD), store, str(origin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        child.kill()


async def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(7)
    store, origin = str(tmp_path / "store"), time.time()
    for _ in range(KILLS):
        await asyncio.to_thread(work_until_killed, store, origin, chance.uniform(0.15, 0.6))
    await every_minute_fired(store, origin, KILLS)


async def finish_jobs(queue: Queue) -> None:
    """A worker that a failing store does not end; freeing dedup keys as fast as it can."""
    while True:
        with contextlib.suppress(StoreError):
            claim = await queue.claim("q", wait=3600)
            if claim is not None:
                await queue.ack(claim)


@pytest.mark.parametrize("gate", ["write", "flush"])
async def test_a_store_that_hangs_now_and_then(gate: str) -> None:
    clock = FastClock(time.time())
    async with Queue.open("memory://", default_config=CONFIG, clock=clock) as queue:
        held = hold_engine(queue, timeout=0.03)
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
        worker = asyncio.create_task(finish_jobs(queue))
        async with scheduler:
            for hang in (0.02, 0.05, 0.15, 0.3, 0.05):
                await asyncio.sleep(0.12)
                held.hold(gate)
                await asyncio.sleep(hang)
                held.release(gate)
            await asyncio.sleep(0.3)
            end = clock.now() - 2 * MINUTE
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
        found = await fired(queue)
        assert_every_minute(found)
        assert found[-1] >= end


async def test_schedulers_that_fire_at_once_take_turns(queue: Queue, mock_clock: MockClock) -> None:
    """Though the first one's job is finished, and its dedup key free, when the second enqueues."""
    held = hold_engine(queue)
    schedulers = [CronScheduler(queue) for _ in range(3)]
    for scheduler in schedulers:
        scheduler.schedule("s", "* * * * *", "q", b"")
    async with worked_on(queue) as seen, schedulers[0], schedulers[1], schedulers[2]:
        looked = held.calls["get"]

        async def let_the_job_finish() -> None:
            # The commit of the first one looks at the record, and for its dedup key.
            if held.calls["get"] > looked + 2:
                await turns_until(lambda: bool(seen))

        held.before["get"] = let_the_job_finish
        await mock_clock.advance(60)
        assert seen == [at("00:01")]


async def test_a_commit_under_way_is_waited_for_before_a_firing_is_tried_again() -> None:
    """It can land, and its job finish, between the look at the record and the enqueue."""
    # A moment before the full hour.
    clock = FastClock(time.time() - 5.7)
    async with Queue.open("memory://", default_config=CONFIG, clock=clock) as queue:
        held = hold_engine(queue, timeout=0.03)
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "0 * * * *", "q", b"", catch_up="all")
        async with worked_on(queue) as seen, scheduler:
            looked = held.calls["get"]
            held.hold("write")
            # The first try looks at the record and the dedup key; the second waits for it.
            await held.reached("get", looked + 2)
            await asyncio.sleep(0.1)

            async def let_the_job_finish() -> None:
                await turns_until(lambda: bool(seen))

            held.before["get"] = let_the_job_finish
            held.release("write")
            await asyncio.sleep(0.1)
    assert len(seen) == 1


async def test_a_commit_of_unknown_outcome_is_looked_up_not_repeated(
    queue: Queue, mock_clock: MockClock
) -> None:
    held = hold_engine(queue)

    async def fail() -> None:
        held.before.clear()
        raise Error.Unavailable("the bucket is on fire")

    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    async with worked_on(queue) as seen, scheduler:
        held.before["flush"] = fail
        await mock_clock.advance(3600)
        assert not held.before
        await mock_clock.advance(3600)
    assert seen == [at("01:00"), at("02:00")]


@pytest.mark.parametrize("down", [20, 300])
async def test_a_firing_during_an_outage_is_not_dropped(
    queue: Queue, mock_clock: MockClock, down: int
) -> None:
    """Though it is late by then and `catch_up` is "none": somebody was there."""
    held = hold_engine(queue)

    async def fail() -> None:
        raise StoreError("the bucket is on fire")

    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    async with worked_on(queue) as seen, scheduler:
        await mock_clock.advance(3595)
        held.before["get"] = fail
        await mock_clock.advance(5 + down)
        held.before.clear()
        await mock_clock.advance(1)
        assert seen == [at("01:00")]
        # The next one that is missed for want of a scheduler is dropped again.
        await mock_clock.set_time(at("02:05"))
        await mock_clock.advance(3600)
        assert seen == [at("01:00"), at("03:00")]


async def test_a_look_that_somebody_cancels_ends_the_scheduler_with_its_name(
    queue: Queue, mock_clock: MockClock
) -> None:
    held = hold_engine(queue)
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "0 * * * *", "q", b"")
    held.hold("get")
    run = asyncio.create_task(scheduler.run())
    await held.reached("get")
    (look,) = [task for task in asyncio.all_tasks() if task.get_name() == "taquba-cron-look"]
    look.cancel()
    with pytest.raises(TaqubaError, match="taquba-cron-look"):
        await run
    held.release()


async def test_a_queue_that_ends_ends_its_scheduler(tmp_path: Path) -> None:
    store, clock = str(tmp_path / "store"), MockClock()
    queue = await Queue.open(store, clock=clock)
    scheduler = CronScheduler(queue)
    scheduler.schedule("s", "* * * * *", "q", b"")
    run = asyncio.create_task(scheduler.run())
    await clock.advance(0)
    async with Queue.open(store, take_over=True):
        await clock.advance(60)
        with pytest.raises(StoreFenced):
            await run
    await queue.close()
    with pytest.raises(QueueClosed):
        await scheduler.run()


async def test_a_failure_inside_the_block_is_logged_and_raised_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock = str(tmp_path / "store"), MockClock()
    async with Queue.open(store, clock=clock) as queue:
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "* * * * *", "q", b"")
        await scheduler.__aenter__()
        async with Queue.open(store, take_over=True):
            await clock.advance(60)
        assert "the cron scheduler stopped: another process" in caplog.text
        with pytest.raises(StoreFenced):
            await scheduler.__aexit__(None, None, None)
