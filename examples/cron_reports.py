"""A report every weekday at 02:30 in New York: two weeks of it, on a virtual clock.

    python examples/cron_reports.py [FOLDER]

The clocks go forward over 02:30 on Sunday the 10th, for which there is a weekly schedule, and the
program is down from Tuesday the 12th to Thursday the 14th. For a real program leave out `clock`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from taquba import JobRecord, LeaseHandle, Queue, run_worker
from taquba.testing import MockClock
from taquba_cron import CronScheduler, firing_time

ZONE = "America/New_York"


async def make_report(job: JobRecord, lease: LeaseHandle) -> None:
    firing = firing_time(job)
    assert firing is not None
    print(f"{job.payload.decode():8} {firing.astimezone(ZoneInfo(ZONE)):%a %d %b %H:%M %Z}")


async def live(store: str, clock: MockClock, days: int) -> None:
    """One life of the program."""
    async with Queue.open(store, clock=clock) as queue:
        scheduler = CronScheduler(queue)
        scheduler.schedule(
            "weekday-report", "30 2 * * MON-FRI", "reports", b"weekday", timezone=ZONE
        )
        scheduler.schedule(
            "weekly-report", "30 2 * * SUN", "reports", b"weekly", timezone=ZONE, catch_up="all"
        )
        shutdown = asyncio.Event()
        worker = asyncio.create_task(run_worker(queue, "reports", make_report, shutdown=shutdown))
        async with scheduler:
            await clock.advance(timedelta(days=days))
            for info in await scheduler.schedules():
                assert info.next_fire is not None
                print(f"- {info.name} fires next at {info.next_fire:%d %b %H:%M} UTC")
        shutdown.set()
        await worker


async def main(store: str) -> None:
    clock = MockClock(datetime(2030, 3, 4, 12, tzinfo=UTC))
    await live(store, clock, days=8)
    print("(down for two days)")
    await clock.advance(timedelta(days=2))
    await live(store, clock, days=4)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(folder))
