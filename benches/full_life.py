"""Claim, a handler that does nothing, durable ack."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import QUEUE, Bench, Row, elapsed, expect, fill, positive
from taquba import JobRecord, LeaseHandle, Queue, Store, run_worker


async def work(queue: Store, jobs: int, concurrency: int) -> float:
    """Jobs per second of a worker loop, until the last ack is durable."""
    handled = 0
    stop = asyncio.Event()

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal handled
        handled += 1
        if handled == jobs:
            stop.set()

    with elapsed() as total:
        # A worker that is told to stop returns when its settlements are durable.
        await run_worker(queue, QUEUE, handler, concurrency=concurrency, shutdown=stop)
    return total.rate(jobs)


async def by_hand(queue: Queue, jobs: int, batch: int) -> float:
    """Jobs per second of `claim_batch`, then all acks of the batch together."""
    done = 0
    with elapsed() as total:
        while done < jobs:
            claims = await queue.claim_batch(QUEUE, batch)
            await asyncio.gather(*(queue.ack(claim) for claim in claims))
            done += len(claims)
    return total.rate(jobs)


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs, concurrency = options.jobs, options.concurrency
    rows: list[Row] = []
    for case, count in (
        (f"run_worker(concurrency={concurrency})", jobs),
        (f"claim_batch({concurrency}), acks together", jobs),
        ("claim_batch(1000), acks together", jobs),
        ("claim, ack, one after the other", max(1, jobs // 10)),
    ):
        async with options.store.open() as queue:
            await fill(queue, count)
            if case.startswith("run_worker"):
                rate = await work(queue, count, concurrency)
            elif case.startswith("claim_batch"):
                rate = await by_hand(queue, count, 1000 if "1000" in case else concurrency)
            else:
                rate = await by_hand(queue, count, 1)
            await expect(queue, pending=0, claimed=0, done=count)
            rows.append(Row(case, {"jobs": count, "jobs/s": rate}))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=20_000, help="jobs enqueued before")
    parser.add_argument("--concurrency", type=positive, default=50, help="handlers at a time")


BENCH = Bench(
    "full_life",
    "How many jobs per second are claimed, handled by a no-op, and durably acknowledged?",
    measure,
    arguments,
    small=("--jobs", "500"),
)

if __name__ == "__main__":
    BENCH.main()
