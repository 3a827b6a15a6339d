"""What the tests of the scheduler share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from taquba import JobRecord, JobStatus, LeaseHandle, Queue, QueueReader, run_worker
from taquba_cron import firing_time


def at(text: str) -> datetime:
    """A time of 2030-01-01, on which the mock clock starts, or of another day."""
    return datetime.fromisoformat(text if "-" in text else f"2030-01-01 {text}").replace(tzinfo=UTC)


async def fired(store: Queue | QueueReader, name: str = "q") -> list[datetime]:
    """The firings of which there is a job, in any state: one entry for each job."""
    found: list[datetime] = []
    for status in JobStatus:
        cursor = None
        while True:
            page = await store.list_jobs(name, status, cursor=cursor)
            for job in page.jobs:
                firing = firing_time(job)
                assert firing is not None
                found.append(firing)
            cursor = page.next_cursor
            if cursor is None:
                break
    return sorted(found)


@asynccontextmanager
async def worked_on(queue: Queue, name: str = "q") -> AsyncIterator[list[datetime]]:
    """The firings whose jobs a worker finished, in the order in which it did.

    Finished jobs leave the store and hold no dedup key: what fires twice is worked on twice.
    """
    seen: list[datetime] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        firing = firing_time(job)
        assert firing is not None
        seen.append(firing)

    shutdown = asyncio.Event()
    # On the handle of a member it is the scheduler that is tested: a worker there would take
    # minutes for the hours of a virtual clock.
    owner = getattr(queue, "behind", queue)
    worker = asyncio.create_task(run_worker(owner, name, handle, shutdown=shutdown))
    try:
        yield seen
    finally:
        shutdown.set()
        await worker


async def turns_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")
