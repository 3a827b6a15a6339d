"""The longest time for which one call keeps the event loop from running anything else."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable

from benches._harness import BATCH, QUEUE, Bench, Row, fill, positive, stalls
from taquba import Claim, EnqueueRequest, Queue

KIB_256 = 256 * 1024

Step = Callable[[], Awaitable[object]]


class Meter:
    """Stalls of repeated steps, by the name of the step."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float]]] = {}

    async def watch(self, case: str, step: Step) -> None:
        # Let what the step before left behind run first.
        await asyncio.sleep(0.005)
        with stalls() as found:
            await step()
            # A stall right before the step's end shows when the next timer is due.
            await asyncio.sleep(0.002)
        self._found.setdefault(case, []).append((found.wall_ms, found.cpu_ms))

    def rows(self) -> list[Row]:
        rows: list[Row] = []
        for case, found in self._found.items():
            wall, cpu = zip(*found, strict=True)
            values = {
                "times": len(found),
                "stall ms: median": statistics.median(wall),
                "longest": max(wall),
                "of CPU ms: median": statistics.median(cpu),
                "longest ": max(cpu),
            }
            rows.append(Row(case, values))
        return rows


async def measure(options: argparse.Namespace) -> list[Row]:
    meter = Meter()
    large = os.urandom(KIB_256)
    batch = [EnqueueRequest(QUEUE, bytes(64)) for _ in range(BATCH)]
    async with options.store.open() as queue:
        await fill(queue, 10, name="warm-up")
        for _ in range(options.times):
            await meter.watch("nothing: the noise of the machine", lambda: asyncio.sleep(0.005))
            await one_large_job(queue, meter, large)
            await batches(queue, meter, batch)
    return meter.rows()


async def one_large_job(queue: Queue, meter: Meter, payload: bytes) -> None:
    held: list[Claim] = []

    async def claim() -> None:
        held.extend(await queue.claim_batch(QUEUE, 1))

    await meter.watch("enqueue of 256 KiB", lambda: queue.enqueue(QUEUE, payload))
    await meter.watch("claim of 256 KiB", claim)
    await meter.watch("ack of 256 KiB", lambda: queue.ack(held.pop()))


async def batches(queue: Queue, meter: Meter, batch: list[EnqueueRequest]) -> None:
    held: list[Claim] = []

    async def claim() -> None:
        held.extend(await queue.claim_batch(QUEUE, BATCH))

    async def ack() -> None:
        await asyncio.gather(*(queue.ack(claim) for claim in held))
        held.clear()

    await meter.watch(f"enqueue_batch of {BATCH:,}", lambda: queue.enqueue_batch(batch))
    await meter.watch(f"claim_batch of {BATCH:,}", claim)
    await meter.watch(f"{BATCH:,} acks together", ack)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=positive, default=30, help="how often each is done")


BENCH = Bench(
    "loop_stalls",
    "For how long do one 256 KiB job and batches of 1,000 keep the event loop from others?",
    measure,
    arguments,
    small=("--times", "2"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
