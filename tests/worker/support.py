"""What the tests of worker loops share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taquba import JobRecord, Queue, run_worker
from taquba._worker.handlers import Handler

REAL_SECONDS = 30
"""Bound on what a test waits for in real time; nothing here takes nearly as long."""


class Panic(BaseException):
    """Such as extensions written in Rust raise."""


@asynccontextmanager
async def working(
    queue: Queue, handler: Handler, name: str = "q", **options: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """A worker loop beside the test; drained at the end."""
    shutdown = asyncio.Event()
    task = asyncio.create_task(run_worker(queue, name, handler, shutdown=shutdown, **options))
    try:
        yield task
    finally:
        shutdown.set()
        async with asyncio.timeout(REAL_SECONDS):
            await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def finish(queue: Queue, *job_ids: str) -> list[JobRecord | None]:
    """Wait until the jobs are acknowledged or dead; what is kept of them."""
    async with asyncio.timeout(REAL_SECONDS):
        outcomes = [await queue.wait_for_completion(job_id, 10**8) for job_id in job_ids]
    return [outcome.job for outcome in outcomes]


async def add_jobs(queue: Queue, count: int, name: str = "q", **options: Any) -> list[str]:
    return [(await queue.enqueue(name, str(n).encode(), **options)).id for n in range(count)]


class Gate:
    """A handler that reports each start and then waits until the test lets it go on."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()
        self._changed = asyncio.Event()

    async def __call__(self, job: JobRecord, lease: object) -> None:
        self.started.append(job.id)
        self._changed.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise

    async def starts(self, count: int) -> None:
        """Wait until so many handlers have started."""
        async with asyncio.timeout(REAL_SECONDS):
            while len(self.started) < count:
                self._changed.clear()
                await self._changed.wait()
