"""Schedulers in all processes of a service, which are killed: every firing has its one job."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

import pytest

from taquba import InvalidArgument, OpenOptions, Queue, Service
from taquba_cron import CronScheduler, _scheduler, list_schedules
from tests.conftest import LONG
from tests.cron.test_crash import every_minute_fired

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
    await every_minute_fired(str(store), origin, KILLS)


def test_a_scheduler_is_made_before_any_event_loop(tmp_path: Path) -> None:
    service = Service(tmp_path / "s", fsync=False)
    scheduler = CronScheduler(service)
    scheduler.schedule("s", "0 0 1 1 *", "q", b"")

    async def run() -> list[str]:
        async with service, scheduler:
            return [info.name for info in await list_schedules(service)]

    assert asyncio.run(run()) == ["s"]


async def test_without_an_owner_a_scheduler_waits_for_one_and_stops_when_it_is_told_to(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_scheduler, "_LAST_LOOK_SECONDS", 0.05)
    async with Queue.open(short_path / "s", inbox=True, fsync=False):
        pass
    async with Service(short_path / "s", role="producer", call_timeout=0.2, fsync=False) as service:
        scheduler = CronScheduler(service)
        scheduler.schedule("s", "0 0 1 1 *", "q", b"")
        async with scheduler:
            assert "schedule 's' will be tried again: no owner" in caplog.text
            options: OpenOptions = {"inbox": True, "producer_socket": True, "fsync": False}
            async with await Queue.open(short_path / "s", **options) as queue:
                async with asyncio.timeout(SECONDS):
                    while not await list_schedules(queue):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
    async with Service(short_path / "s", role="producer", fsync=False) as patient:
        scheduler = CronScheduler(patient)
        scheduler.schedule("s", "0 0 1 1 *", "q", b"")
        stop = asyncio.Event()
        run = asyncio.create_task(scheduler.run(stop))
        await asyncio.sleep(0.1)
        stop.set()
        async with asyncio.timeout(SECONDS / 2):
            await run


async def test_a_scheduler_of_a_service_that_does_not_run_says_so(tmp_path: Path) -> None:
    scheduler = CronScheduler(Service(tmp_path / "s"))
    scheduler.schedule("s", "* * * * *", "q", b"")
    with pytest.raises(InvalidArgument, match="not running yet"):
        await scheduler.run()
