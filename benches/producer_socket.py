"""Producers of another process on the owner's machine, through its socket."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benches._harness import QUEUE, Bench, Row, elapsed, latency, positive
from benches.s3_latency import new_store, slow_s3
from taquba import Producer, Queue

PAYLOAD = bytes(64)


@asynccontextmanager
async def owning(url: str) -> AsyncIterator[None]:
    """An owner in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.producer_socket", "--child", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def own(url: str) -> None:
    async with Queue.open(url, inbox=True, producer_socket=True):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def produce(store: str, url: str, producers: int, jobs: int) -> Row:
    seconds: list[float] = []
    each = max(1, jobs // producers)
    async with owning(url), Producer.open(url) as producer:

        async def task() -> None:
            for _ in range(each):
                began = time.perf_counter()
                await producer.enqueue(QUEUE, PAYLOAD)
                seconds.append(time.perf_counter() - began)

        with elapsed() as total:
            await asyncio.gather(*(task() for _ in range(producers)))
        pending = (await producer.stats(QUEUE)).pending
        if pending != len(seconds):
            raise RuntimeError(f"{pending} jobs instead of {len(seconds)}")
    case = f"{store}, {producers:,} producer{'s' if producers > 1 else ''}"
    return Row(case, {"jobs": len(seconds), "jobs/s": total.rate(len(seconds)), **latency(seconds)})


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    cases = ((1, options.jobs // 20), (50, options.jobs), (1000, options.jobs))
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        for producers, jobs in cases:
            rows.append(await produce("folder", f"{folder}/{producers}", producers, jobs))
    async with slow_s3(options.latency_ms):
        for producers, jobs in cases:
            rows.append(await produce("S3", new_store(), producers, jobs))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=10_000, help="jobs of most cases")
    parser.add_argument("--latency-ms", type=float, default=20, help="of every request to S3")


BENCH = Bench(
    "producer_socket",
    "How many jobs per second does another process durably enqueue through the owner's socket, "
    "and how long does each take (stores of its own: a folder, and S3; --store is not used)?",
    measure,
    arguments,
    small=("--jobs", "60", "--latency-ms", "1"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(own(sys.argv[2]))
    else:
        BENCH.main()
