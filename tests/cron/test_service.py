"""Schedulers in all processes of a service, which are killed: every firing has its one job."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

from taquba import Queue
from taquba_cron import CronScheduler
from tests.conftest import LONG
from tests.cron.cron_child import CONFIG
from tests.cron.fast_clock import FastClock
from tests.cron.support import fired
from tests.cron.test_crash import MINUTE, assert_every_minute

CHILD = Path(__file__).with_name("cron_service_child.py")
KILLS = 60 if LONG else 6
SECONDS = 30


async def start(store: Path, origin: float) -> asyncio.subprocess.Process:
    """A process of the service, once it has looked at its schedule."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD), str(store), str(origin)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def test_whichever_process_is_killed_no_firing_is_lost_and_none_is_doubled(
    short_path: Path,
) -> None:
    chance = random.Random(7)
    store, origin = short_path / "s", time.time()
    alive = [await start(store, origin) for _ in range(3)]
    try:
        for turn in range(KILLS):
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            # The owner is one of the older ones.
            victim = alive.pop(turn % 2)
            victim.kill()
            await victim.wait()
            alive.append(await start(store, origin))
    finally:
        for process in alive:
            process.kill()
            await process.wait()
    clock = FastClock(origin)
    async with Queue.open(store, default_config=CONFIG, clock=clock, fsync=False) as queue:
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
        end = clock.now() - MINUTE
        async with scheduler:
            found = await fired(queue)
    assert_every_minute(found)
    assert found[-1] >= end
    assert len(found) > KILLS
