# /// script
# dependencies = []
#
# [tool.peer]
# stores = ["folder"]
# settings = [
#     "run_worker(concurrency={concurrency}), in the process of the producers, as an owner works",
# ]
# ///
"""taquba itself, on a local folder. It runs in the environment of the benches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benches.peers.driver import PAYLOAD_BYTES, Driver, Handler, main, report_pipe
from taquba import EnqueueRequest, JobRecord, LeaseHandle, Queue, run_worker

QUEUE = "bench"


class Taquba(Driver):
    payload = b"x" * PAYLOAD_BYTES
    batch = 1000

    async def open(self) -> None:
        self._queue = await Queue.open(self.url)

    async def enqueue(self) -> None:
        await self._queue.enqueue(QUEUE, self.payload)

    async def enqueue_many(self, jobs: int) -> None:
        await self._queue.enqueue_batch([EnqueueRequest(QUEUE, self.payload)] * jobs)

    async def close(self) -> None:
        await self._queue.close()

    def work(self, handle: Handler) -> None:
        raise NotImplementedError("taquba's worker runs in the process that owns the store")

    @asynccontextmanager
    async def worker(self, backlog: int) -> AsyncIterator[asyncio.StreamReader]:
        reader, report = await report_pipe()
        handle = Handler(report, backlog)
        stop = asyncio.Event()

        async def handler(job: JobRecord, lease: LeaseHandle) -> None:
            handle(job.payload)

        worker = asyncio.create_task(
            run_worker(self._queue, QUEUE, handler, concurrency=self.concurrency, shutdown=stop)
        )
        # A worker that fails ends the report, as a worker process that dies does.
        worker.add_done_callback(lambda _: os.close(report))
        yield reader
        stop.set()
        await worker

    def durability(self) -> str:
        return "fsync=True, the default of Queue.open"


if __name__ == "__main__":
    main(Taquba)
