"""The inbox: what producers put there per second, how fast the owner takes it, what it costs."""

from __future__ import annotations

import argparse
import asyncio
import time

from benches._harness import BATCH, QUEUE, Bench, Row, Value, elapsed, expect, latency, positive
from benches.s3_latency import new_store, slow_s3
from taquba import EnqueueRequest, Producer, Queue
from tests.servers.faults import Counts
from tests.servers.proxy import FaultyProxy

PAYLOAD = bytes(64)
WRITE_DOLLARS = 0.005 / 1000
READ_DOLLARS = 0.0004 / 1000
"""Amazon S3 Standard, us-east-1, per request; removals are free."""


async def produce(producer: Producer, callers: int, jobs: int) -> tuple[int, dict[str, Value]]:
    """`callers` tasks, each of which enqueues its next job when the last is durable."""
    seconds: list[float] = []

    async def call() -> None:
        for _ in range(max(1, jobs // callers)):
            start = time.perf_counter()
            await producer.enqueue(QUEUE, PAYLOAD)
            seconds.append(time.perf_counter() - start)

    with elapsed() as total:
        await asyncio.gather(*(call() for _ in range(callers)))
    return len(seconds), {"jobs/s": total.rate(len(seconds)), **latency(seconds)}


async def produce_batches(producer: Producer, jobs: int) -> tuple[int, dict[str, Value]]:
    seconds: list[float] = []
    count = max(1, jobs // BATCH)
    with elapsed() as total:
        for _ in range(count):
            start = time.perf_counter()
            await producer.enqueue_batch([EnqueueRequest(QUEUE, PAYLOAD) for _ in range(BATCH)])
            seconds.append(time.perf_counter() - start)
    return count * BATCH, {"jobs/s": total.rate(count * BATCH), **latency(seconds)}


async def one_place(place: str, url: str, jobs: int, proxy: FaultyProxy | None) -> list[Row]:
    """Every case on one store, whose owner is away while producers are at work."""
    rows: list[Row] = []
    async with Queue.open(url, inbox=True):
        pass
    pending = 0
    async with Producer.open(url) as producer:
        # A store with latency answers one caller so many times a second, whatever the machine.
        for callers, count in ((1, jobs // 100), (50, jobs), (0, jobs * 2)):
            if proxy is not None:
                await proxy.clear_counts()
            case = f"{callers} callers" if callers else f"batches of {BATCH:,}"
            if callers:
                done, values = await produce(producer, callers, count)
            else:
                done, values = await produce_batches(producer, count)
            cost = await costs(proxy, done)
            rows.append(Row(f"{place}: enqueue, {case}", {"jobs": done, **values, **cost}))
            pending += done
            rows.append(await take(f"{place}: take those", url, done, pending, proxy))
    rows.append(await idle(place, url, 20))
    return rows


async def take(case: str, url: str, jobs: int, pending: int, proxy: FaultyProxy | None) -> Row:
    """An owner takes what lies there."""
    async with Queue.open(url, inbox=True) as queue:
        if proxy is not None:
            await proxy.clear_counts()
        cpu = time.process_time()
        with elapsed() as total:
            await queue.ingest_now()
        cpu = time.process_time() - cpu
        await expect(queue, pending=pending)
        cost = await costs(proxy, jobs)
    values: dict[str, Value] = {
        "jobs": jobs,
        "jobs/s": total.rate(jobs),
        "us of CPU per job": cpu / jobs * 1e6,
    }
    return Row(case, values | cost)


async def idle(place: str, url: str, jobs: int) -> Row:
    """From the call of `enqueue` to the claim, with an owner on the same machine."""
    seconds: list[float] = []
    name = "idle"
    async with Queue.open(url, inbox=True) as queue, Producer.open(url) as producer:
        for _ in range(jobs):
            start = time.perf_counter()
            await producer.enqueue(name, PAYLOAD)
            claim = await queue.claim(name, wait=30)
            seconds.append(time.perf_counter() - start)
            if claim is not None:
                await queue.ack(claim)
    return Row(f"{place}: enqueue to claim, idle", {"jobs": jobs, **latency(seconds)})


async def costs(proxy: FaultyProxy | None, jobs: int) -> dict[str, Value]:
    """Requests to the inbox, and to the store, per 1,000 jobs, and their price."""
    if proxy is None:
        return {}
    counts: Counts = await proxy.counts()
    writes = sum(counts.of(method=method).requests for method in ("PUT", "POST", "LIST"))
    reads = sum(counts.of(method=method).requests for method in ("GET", "HEAD"))
    dollars = writes * WRITE_DOLLARS + reads * READ_DOLLARS
    return {
        "writes per 1,000": writes / jobs * 1000,
        "reads per 1,000": reads / jobs * 1000,
        "dollars per 1,000": dollars / jobs * 1000,
    }


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs: int = options.jobs
    place = options.store
    rows = await one_place(place.kind, place.new(shared=True), jobs, None)
    async with slow_s3(options.latency_ms) as proxy:
        s3 = f"S3, {options.latency_ms:g} ms"
        rows += await one_place(s3, new_store(), jobs, proxy)
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=20_000, help="jobs of 50 callers")
    parser.add_argument("--latency-ms", type=float, default=20, help="of each request to S3")


BENCH = Bench(
    "inbox",
    "How many jobs do producers put into the inbox per second, how fast does the owner take "
    "them, and what do they cost?",
    measure,
    arguments,
    small=("--jobs", "1000", "--latency-ms", "1"),
)

if __name__ == "__main__":
    BENCH.main()
