"""An S3 server with latency: rates, latencies and requests, by how often commits are flushed."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benches._harness import QUEUE, Bench, Row, elapsed, expect, percentile, positive
from taquba import JobRecord, LeaseHandle, Queue, run_worker
from tests.servers.faults import Count, Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

FLUSH_INTERVALS_MS = (0, 20, 50, 100, 250)
AT_ONCE = math.inf
PAYLOAD_SIZES = (64, 16 * 1024, 256 * 1024 + 1, 1024 * 1024)


@asynccontextmanager
async def slow_s3(latency_ms: float) -> AsyncIterator[FaultyProxy]:
    """A server of its own on loopback, found by the environment; `--store` is not used."""
    server = await asyncio.to_thread(S3Server)
    before = dict(os.environ)
    try:
        async with FaultyProxy(server.endpoint, Faults(latency_ms=latency_ms)) as proxy:
            os.environ.update(server.environment(proxy.endpoint))
            yield proxy
    finally:
        os.environ.clear()
        os.environ.update(before)
        await asyncio.to_thread(server.close)


def new_store() -> str:
    return f"{S3Server.root}/{uuid.uuid4().hex}"


async def live(
    queue: Queue, jobs: int, tasks: int, payload: bytes, rate: float
) -> tuple[float, list[float]]:
    """Enqueue and work on jobs at the same time; seconds in all, and seconds per enqueue.

    With a finite `rate`, in jobs per second, each job has its time, and its latency counts from
    then, even where its producer was late.
    """
    stop = asyncio.Event()
    began = time.perf_counter()
    due_times = iter([began + number / rate for number in range(jobs)])
    latencies: list[float] = []
    handled = 0

    async def produce() -> None:
        for due in due_times:
            if rate == AT_ONCE:
                due = time.perf_counter()
            else:
                await asyncio.sleep(due - time.perf_counter())
            await queue.enqueue(QUEUE, payload)
            latencies.append(time.perf_counter() - due)

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal handled
        handled += 1
        if handled == jobs:
            stop.set()

    with elapsed() as total:
        await asyncio.gather(
            run_worker(queue, QUEUE, handle, concurrency=tasks, shutdown=stop),
            *(produce() for _ in range(tasks)),
        )
    await expect(queue, pending=0, claimed=0, done=jobs)
    return total.seconds, latencies


async def round_trip(samples: int) -> float:
    """Median seconds of an enqueue while nothing else goes on: one PUT."""
    latencies: list[float] = []
    async with Queue.open(new_store()) as queue:
        for _ in range(samples):
            began = time.perf_counter()
            await queue.enqueue(QUEUE, bytes(64))
            latencies.append(time.perf_counter() - began)
    return percentile(latencies, 50)


async def one_case(
    proxy: FaultyProxy,
    case: str,
    jobs: int,
    tasks: int,
    payload: bytes,
    *,
    flush_interval: float = 0,
    rate: float = AT_ONCE,
) -> Row:
    trip = await round_trip(20)
    async with Queue.open(new_store(), flush_interval=flush_interval) as queue:
        await proxy.clear_counts()
        seconds, latencies = await live(queue, jobs, tasks, payload, rate)
        counts = await proxy.counts()
    everything, puts = counts.of(), counts.of(method="PUT")

    def per_thousand(count: Count) -> float:
        return count.requests / jobs * 1000

    return Row(
        case,
        {
            "jobs/s": jobs / seconds,
            "durable commits/s": 2 * jobs / seconds,
            "enqueue p50 ms": percentile(latencies, 50) * 1000,
            "p99 ms": percentile(latencies, 99) * 1000,
            "idle p50 ms": trip * 1000,
            "p50 / idle p50": percentile(latencies, 50) / trip,
            "requests/1000 jobs": per_thousand(everything),
            "PUTs/1000 jobs": per_thousand(puts),
            "sent/payload byte": everything.sent_bytes / (jobs * len(payload)),
        },
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs, tasks = options.jobs, options.tasks
    rows: list[Row] = []
    async with slow_s3(options.latency_ms) as proxy:
        for interval in FLUSH_INTERVALS_MS:
            case = f"flush_interval {interval} ms"
            rows.append(
                await one_case(proxy, case, jobs, tasks, bytes(64), flush_interval=interval / 1000)
            )
        case = f"{options.rate:,} jobs/s"
        rows.append(await one_case(proxy, case, jobs, tasks, bytes(64), rate=options.rate))
        for size in PAYLOAD_SIZES:
            count = max(1, min(jobs, options.megabytes * 1_000_000 // size))
            payload = os.urandom(size)
            rows.append(await one_case(proxy, f"payload {size:,} B", count, tasks, payload))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=20_000, help="most jobs per case")
    parser.add_argument("--tasks", type=positive, default=300, help="producers, and workers")
    parser.add_argument("--rate", type=positive, default=2000, help="jobs/s of the paced case")
    parser.add_argument("--latency-ms", type=float, default=20, help="of every request")
    parser.add_argument("--megabytes", type=positive, default=32, help="most payload per case")


BENCH = Bench(
    "s3_latency",
    "What does an S3 server 20 ms away (its own; --store is not used) cost?",
    measure,
    arguments,
    small=("--jobs", "50", "--tasks", "10", "--latency-ms", "1", "--megabytes", "1"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
