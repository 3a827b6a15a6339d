"""From the call of `enqueue` on an idle queue to the start of the handler."""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from benches._harness import QUEUE, Bench, Row, latency, positive
from taquba import JobRecord, LeaseHandle, run_worker


async def measure(options: argparse.Namespace) -> list[Row]:
    to_start: list[float] = []
    to_return: list[float] = []
    to_done: list[float] = []
    called = 0.0

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        to_start.append(time.perf_counter() - called)

    async with options.store.open() as queue:
        stop = asyncio.Event()
        worker = asyncio.create_task(
            run_worker(queue, QUEUE, handler, concurrency=options.concurrency, shutdown=stop)
        )
        for _ in range(options.warmup + options.jobs):
            # Nothing runs, and no rhythm that timers could fall in step with.
            await asyncio.sleep(random.uniform(0.001, 0.004))
            called = time.perf_counter()
            result = await queue.enqueue(QUEUE, bytes(64))
            to_return.append(time.perf_counter() - called)
            await queue.wait_for_completion(result.id, 10)
            to_done.append(time.perf_counter() - called)
        stop.set()
        await worker
    skip = options.warmup
    return [
        Row("to the handler's start", {"jobs": options.jobs, **latency(to_start[skip:])}),
        Row("to enqueue's return", {"jobs": options.jobs, **latency(to_return[skip:])}),
        Row("to the job's end, seen", {"jobs": options.jobs, **latency(to_done[skip:])}),
    ]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=2000, help="jobs, one at a time")
    parser.add_argument("--warmup", type=int, default=50, help="jobs before, not counted")
    parser.add_argument("--concurrency", type=positive, default=50, help="of the waiting worker")


BENCH = Bench(
    "idle_latency",
    "How long does an idle queue take from the call of enqueue to the handler's start?",
    measure,
    arguments,
    small=("--jobs", "50", "--warmup", "5"),
)

if __name__ == "__main__":
    BENCH.main()
