"""Durable enqueue: one producer, many producers, batches."""

from __future__ import annotations

import argparse
import asyncio
import time

from benches._harness import BATCH, QUEUE, Bench, Row, elapsed, expect, latency, size_option
from taquba import EnqueueRequest, Queue

PAYLOAD = bytes(64)


async def produce(queue: Queue, producers: int, jobs: int) -> Row:
    """`producers` tasks, each of which enqueues its next job when the last is durable."""
    seconds: list[float] = []
    each = max(1, jobs // producers)

    async def producer() -> None:
        for _ in range(each):
            start = time.perf_counter()
            await queue.enqueue(QUEUE, PAYLOAD)
            seconds.append(time.perf_counter() - start)

    with elapsed() as total:
        await asyncio.gather(*(producer() for _ in range(producers)))
    case = "1 producer" if producers == 1 else f"{producers:,} producers"
    return Row(case, {"jobs": len(seconds), "jobs/s": total.rate(len(seconds)), **latency(seconds)})


async def produce_batches(queue: Queue, jobs: int) -> Row:
    seconds: list[float] = []
    count = max(1, jobs // BATCH)
    with elapsed() as total:
        for _ in range(count):
            start = time.perf_counter()
            await queue.enqueue_batch([EnqueueRequest(QUEUE, PAYLOAD) for _ in range(BATCH)])
            seconds.append(time.perf_counter() - start)
    return Row(
        f"batches of {BATCH:,}",
        {"jobs": count * BATCH, "jobs/s": total.rate(count * BATCH), **latency(seconds)},
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs: int = options.jobs
    rows: list[Row] = []
    # One producer is about ten times slower than fifty, batches are several times faster.
    for producers, count in ((1, jobs // 10), (50, jobs), (1000, jobs), (0, jobs * 5)):
        async with options.store.open() as queue:
            await produce(queue, 10, 100)  # warm up
            before = (await queue.stats(QUEUE)).pending
            if producers:
                row = await produce(queue, producers, count)
            else:
                row = await produce_batches(queue, count)
            await expect(queue, pending=before + int(row.values["jobs"] or 0))
            rows.append(row)
    return rows


BENCH = Bench(
    "enqueue",
    "How many jobs of 64 bytes are durably enqueued per second, and how long does each take?",
    measure,
    size_option("--jobs", 20_000, "jobs of the case with 50 producers; the others follow"),
    small=("--jobs", "400"),
)

if __name__ == "__main__":
    BENCH.main()
