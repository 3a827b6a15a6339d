"""One process of a service, with the scheduler and workers. Arguments: store, origin of its time.

It says when it has looked at its schedule.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taquba import JobRecord, LeaseHandle, QueueConfig, Service
from taquba_cron import CronScheduler

sys.path.insert(0, str(Path(__file__).parent))
from fast_clock import FastClock

# What the workers finished stays, so that all that was ever enqueued can be counted.
CONFIG = QueueConfig(keep_done_jobs=30 * 24 * 3600, lease_duration=24 * 3600)


async def handle(job: JobRecord, lease: LeaseHandle) -> None:
    pass


async def main(store: str, origin: str) -> None:
    service = Service(
        store, {"q": handle}, default_config=CONFIG, clock=FastClock(float(origin)), fsync=False
    )
    scheduler = CronScheduler(service)
    scheduler.schedule("s", "* * * * *", "q", b"", catch_up="all")
    async with service, scheduler:
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
