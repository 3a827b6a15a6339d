"""Typed jobs: submitted and awaited, submitted again, and what that costs over the raw queue."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from benches._harness import QUEUE, Bench, Row, elapsed, expect, positive
from taquba import JobRecord, LeaseHandle, Queue, SettlementEffects, run_worker
from taquba_jobs import JobContext, JobRunner, gather, job


@job(name="add")
async def add(ctx: JobContext, left: int, right: int) -> int:
    return left + right


@job(name="add.once", idempotency_key=lambda left, right: f"{left}+{right}")
async def add_once(ctx: JobContext, left: int, right: int) -> int:
    return left + right


async def raw(queue: Queue, jobs: int, concurrency: int) -> float:
    """The same by hand: enqueue, a handler that writes an entry with the ack, wait, read it."""
    stop = asyncio.Event()

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(kv_writes={job.id: job.payload})

    async def one(_: int) -> bytes | None:
        added = await queue.enqueue(QUEUE, bytes(64))
        await queue.wait_for_completion(added.id, 60)
        return await queue.kv_get(added.id)

    worker = asyncio.create_task(
        run_worker(queue, QUEUE, handler, concurrency=concurrency, shutdown=stop)
    )
    with elapsed() as total:
        results = await gather((one(number) for number in range(jobs)), concurrency=concurrency)
    stop.set()
    await worker
    if results != [bytes(64)] * jobs:
        raise RuntimeError("a result is missing")
    return total.rate(jobs)


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs, concurrency = options.jobs, options.concurrency
    async with options.store.open() as queue:
        rates = {"raw queue: enqueue, wait, read an entry": await raw(queue, jobs, concurrency)}
    async with (
        options.store.open() as queue,
        JobRunner(queue, jobs=[add, add_once], concurrency=concurrency) as runner,
    ):

        async def plain(number: int) -> int:
            return await (await runner.submit(add, number, 1))

        async def once(number: int) -> int:
            return await (await runner.submit(add_once, number, 1))

        async def again(number: int) -> int:
            return int((await runner.submit(add_once, number, 1)).new)

        async def rate(
            case: str, one: Callable[[int], Awaitable[int]], expected: list[int]
        ) -> None:
            with elapsed() as total:
                results = await gather((one(n) for n in range(jobs)), concurrency=concurrency)
            if results != expected:
                raise RuntimeError(f"{case}: the results are wrong")
            rates[case] = total.rate(jobs)

        sums = [number + 1 for number in range(jobs)]
        await rate("submit, await", plain, sums)
        await rate("submit, await, with a key", once, sums)
        await rate("submit finished keys again", again, [0] * jobs)
        await rate("submit finished keys again, await", once, sums)
        await expect(queue, "jobs", done=2 * jobs, pending=0, claimed=0)
    return [Row(case, {"jobs": jobs, "jobs/s": value}) for case, value in rates.items()]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=10_000, help="jobs per case")
    parser.add_argument("--concurrency", type=positive, default=100, help="callers, and handlers")


BENCH = Bench(
    "typed_jobs",
    "How many typed jobs per second are submitted and awaited, and what does that cost?",
    measure,
    arguments,
    small=("--jobs", "200"),
)

if __name__ == "__main__":
    BENCH.main()
