"""Producers and workers at full load on a store, until SIGTERM.

    python slow_store_child.py URL LOG

The log names every job whose enqueue was acknowledged. Each settlement writes ``ran/{id}``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from taquba import JobRecord, LeaseHandle, Queue, SettlementEffects, WorkerSpec, run_workers

DRAIN_SECONDS = 3
PRODUCERS = 50


async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    # Some are still running when the drain is over.
    await asyncio.sleep(60 if job.payload == b"slow" else 0.02)
    return SettlementEffects(kv_writes={f"ran/{job.id}": b""})


async def produce(queue: Queue, log: int, stop: asyncio.Event) -> None:
    count = 0
    while not stop.is_set():
        count += 1
        payload = b"slow" if count % 3 == 0 else b"quick"
        job_id, _ = await queue.enqueue("q", payload)
        os.write(log, f"{job_id}\n".encode())


async def main(url: str, path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stop = asyncio.Event()
    async with Queue.open(url) as queue:
        producers = [asyncio.create_task(produce(queue, log, stop)) for _ in range(PRODUCERS)]
        await run_workers(
            queue, WorkerSpec("q", handle, concurrency=100), drain_timeout=DRAIN_SECONDS
        )
        stop.set()
        await asyncio.gather(*producers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
