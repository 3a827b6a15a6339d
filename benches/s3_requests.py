"""What a bucket is asked for, and what that costs, at a steady rate of jobs."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import Bench, Row, percentile, positive
from benches.s3_latency import live, new_store, slow_s3
from taquba import Queue
from tests.servers.proxy import FaultyProxy

FLUSH_INTERVALS_MS = (0, 100, 1000)

# US dollars per 1,000 requests, S3 Standard in us-east-1; aws.amazon.com/s3/pricing, 2025.
# Removing is free.
WRITE_PRICE = 0.005  # PUT, COPY, POST, LIST
READ_PRICE = 0.0004  # GET, HEAD
WRITES = ("PUT", "POST", "LIST")
READS = ("GET", "HEAD")


async def steady(
    proxy: FaultyProxy, rate: int, flush_interval_ms: int, options: argparse.Namespace
) -> Row:
    jobs = max(1, int(rate * options.seconds))
    # Each producer waits for a flush; there have to be enough of them to keep to the rate.
    tasks = max(100, 2 * rate * flush_interval_ms // 1000)
    async with Queue.open(new_store(), flush_interval=flush_interval_ms / 1000) as queue:
        await proxy.clear_counts()
        _, latencies = await live(queue, jobs, tasks, bytes(64), rate)
        values = await asked(proxy, jobs / 1000)
    per = "1,000 jobs"
    named = {f"{name}/{per}": value for name, value in values.items()}
    return Row(
        f"{rate:,} jobs/s, flush_interval {flush_interval_ms} ms",
        {**named, "enqueue p50 ms": percentile(latencies, 50) * 1000},
    )


async def idle(proxy: FaultyProxy, seconds: float) -> Row:
    async with Queue.open(new_store()) as queue:
        await queue.enqueue("bench", b"", delay=24 * 3600)
        await proxy.clear_counts()
        await asyncio.sleep(seconds)
        values = await asked(proxy, seconds / 3600)
    return Row("idle, one scheduled job", {f"{name}/hour": value for name, value in values.items()})


async def asked(proxy: FaultyProxy, units: float) -> dict[str, float | int | None]:
    """Requests by price, and dollars, per unit."""
    counts = await proxy.counts()
    writes = sum(counts.of(method=method).requests for method in WRITES)
    reads = sum(counts.of(method=method).requests for method in READS)
    dollars = (writes * WRITE_PRICE + reads * READ_PRICE) / 1000
    return {"writes": writes / units, "reads": reads / units, "$": dollars / units}


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    async with slow_s3(options.latency_ms) as proxy:
        rows += [
            await steady(proxy, rate, interval, options)
            for rate in options.rates
            for interval in FLUSH_INTERVALS_MS
        ]
        rows.append(await idle(proxy, options.idle_seconds))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rates", type=positive, nargs="+", default=[1, 10, 100, 1000], help="jobs/s"
    )
    parser.add_argument("--seconds", type=positive, default=30, help="of each case")
    parser.add_argument("--idle-seconds", type=positive, default=60, help="of the idle case")
    parser.add_argument("--latency-ms", type=float, default=20, help="of every request")


BENCH = Bench(
    "s3_requests",
    "What is an S3 server (its own; --store is not used) asked for at a steady rate of jobs?",
    measure,
    arguments,
    small=("--rates", "20", "--seconds", "1", "--idle-seconds", "1", "--latency-ms", "1"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
