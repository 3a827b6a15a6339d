"""How late scheduled jobs start."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

from benches._harness import BATCH, QUEUE, Bench, Row, latency, positive
from taquba import EnqueueRequest, JobRecord, LeaseHandle, run_worker


async def measure(options: argparse.Namespace) -> list[Row]:
    late: list[float] = []
    stop = asyncio.Event()

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        now = time.time()
        assert job.run_at is not None
        late.append(now - job.run_at.timestamp())
        if len(late) == options.jobs:
            stop.set()

    async with options.store.open() as queue:
        # All are enqueued before the first is due.
        margin = 0.2 + options.jobs / 10_000
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1 + margin)
        requests = [
            EnqueueRequest(
                QUEUE,
                bytes(64),
                # Whole milliseconds, as the store keeps them.
                run_at=start + timedelta(milliseconds=random.randrange(options.spread_ms)),
            )
            for _ in range(options.jobs)
        ]
        for first in range(0, options.jobs, BATCH):
            await queue.enqueue_batch(requests[first : first + BATCH])
        if datetime.now(UTC) > start:
            raise RuntimeError("enqueueing took longer than planned: choose fewer --jobs")
        await run_worker(queue, QUEUE, handler, concurrency=options.concurrency, shutdown=stop)
    case = f"handler's start after run_at, over {options.spread_ms / 1000:g} s"
    return [Row(case, {"jobs": options.jobs, "min ms": min(late) * 1000, **latency(late)})]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=2000)
    parser.add_argument(
        "--spread-ms", type=positive, default=4000, help="the jobs are due at random within this"
    )
    parser.add_argument("--concurrency", type=positive, default=50, help="of the waiting worker")


BENCH = Bench(
    "scheduled_latency",
    "How long after its run_at does a scheduled job start?",
    measure,
    arguments,
    small=("--jobs", "100", "--spread-ms", "300"),
)

if __name__ == "__main__":
    BENCH.main()
