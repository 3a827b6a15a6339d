"""A program with a schedule and a worker, to be killed. Arguments: store, origin of its time."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taquba import JobRecord, LeaseHandle, Queue, QueueConfig, run_worker
from taquba_cron import CronScheduler

sys.path.insert(0, str(Path(__file__).parent))
from fast_clock import FastClock

# What the worker finished stays, so that all that was ever enqueued can be counted.
CONFIG = QueueConfig(keep_done_jobs=30 * 24 * 3600, lease_duration=24 * 3600)


async def handle(job: JobRecord, lease: LeaseHandle) -> None:
    pass


async def main(store: str, origin: str) -> None:
    clock = FastClock(float(origin))
    async with Queue.open(store, default_config=CONFIG, clock=clock, fsync=False) as queue:
        scheduler = CronScheduler(queue)
        scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
        async with scheduler:
            print("ready", flush=True)
            await run_worker(queue, "q", handle)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
