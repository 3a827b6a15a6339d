"""Claim latency behind a band of claimed-and-deleted rows."""

from __future__ import annotations

import argparse
import time
from contextlib import AsyncExitStack

from benches._harness import QUEUE, Bench, Place, Row, close_fenced, drain, fill, latency, positive
from taquba import Queue

EMPTY = "empty store"


async def claim_one(queue: Queue) -> float:
    """Time of one claim, of a job that is there; the job is acknowledged afterwards."""
    start = time.perf_counter()
    claim = await queue.claim(QUEUE)
    seconds = time.perf_counter() - start
    if claim is None:
        raise RuntimeError("the job is missing")
    await queue.ack(claim)
    return seconds


async def compare(queues: dict[str, Queue], when: str, samples: int) -> list[Row]:
    """Claim from each queue in turn. A job waits in each when this is called and returns."""
    first: dict[str, float] = {name: await claim_one(queue) for name, queue in queues.items()}
    seconds: dict[str, list[float]] = {name: [] for name in queues}
    for _ in range(samples):
        for name, queue in queues.items():
            await queue.enqueue(QUEUE, bytes(64))
            seconds[name].append(await claim_one(queue))
    for queue in queues.values():
        await queue.enqueue(QUEUE, bytes(64))
    empty_p50 = latency(seconds[EMPTY])["p50 ms"] or 1.0
    rows: list[Row] = []
    for name in queues:
        values = latency(seconds[name])
        ratio = (values["p50 ms"] or 0.0) / empty_p50
        case = f"{name}, {when}"
        rows.append(
            Row(case, {"first claim ms": first[name] * 1000, **values, "p50 / empty": ratio})
        )
    return rows


async def measure(options: argparse.Namespace) -> list[Row]:
    place: Place = options.store
    band = f"{options.jobs:,} rows gone"
    urls = {EMPTY: place.new(shared=True), band: place.new(shared=True)}
    rows: list[Row] = []
    async with AsyncExitStack() as stack:

        async def open_all() -> dict[str, Queue]:
            queues: dict[str, Queue] = {}
            for name, url in urls.items():
                queues[name] = await place.open(url)
                stack.push_async_callback(close_fenced, queues[name])
            return queues

        queues = await open_all()
        await fill(queues[band], options.jobs)
        await drain(queues[band], options.jobs)
        for queue in queues.values():
            await queue.enqueue(QUEUE, bytes(64))
        rows += await compare(queues, "same owner", options.samples)
        for queue in queues.values():
            await queue.close()
        queues = await open_all()
        rows += await compare(queues, "after a clean close", options.samples)
        # The owner before did not close: to the store this is a crash.
        queues = await open_all()
        rows += await compare(queues, "after a crash", options.samples)
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=100_000, help="jobs claimed and deleted")
    parser.add_argument("--samples", type=positive, default=500, help="claims that are timed")


BENCH = Bench(
    "tombstones",
    "Do rows that were claimed and deleted slow down the claims behind them?",
    measure,
    arguments,
    small=("--jobs", "2000", "--samples", "20"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
