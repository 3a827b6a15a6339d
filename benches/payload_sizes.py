"""Payloads from 64 bytes to 256 KiB: rates, loop stalls, and bytes written per payload byte."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from benches._harness import QUEUE, Bench, Place, Row, elapsed, expect, positive, stalls
from benches.full_life import work

SIZES = (64, 1024, 16 * 1024, 256 * 1024)
_AMPLIFIED_SIZE = 1024
_PRODUCERS = 50


def size_name(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB"


def written_bytes() -> int | None:
    """What this process has passed to write calls so far: on a folder store, bytes of files."""
    try:
        counters = Path("/proc/self/io").read_text("ascii")
    except OSError:
        return None
    return next(
        (
            int(value)
            for name, _, value in (line.partition(":") for line in counters.splitlines())
            if name == "wchar"
        ),
        None,
    )


async def one_size(place: Place, size: int, jobs: int) -> Row:
    # Not compressible, and not one object for all jobs.
    payloads = [os.urandom(size) for _ in range(min(jobs, 256))]
    mb = jobs * size / 1e6
    async with place.open() as queue:
        remaining = iter(range(jobs))

        async def producer() -> None:
            for number in remaining:
                await queue.enqueue(QUEUE, payloads[number % len(payloads)])

        before = written_bytes()
        with stalls() as enqueue_stalls, elapsed() as enqueueing:
            await asyncio.gather(*(producer() for _ in range(_PRODUCERS)))
        enqueued = written_bytes()
        with stalls() as life_stalls:
            life_rate = await work(queue, jobs, _PRODUCERS)
        await expect(queue, pending=0, claimed=0, done=jobs)
    # The clean close is part of the life: it writes what is in memory as tables.
    closed = written_bytes()

    def per_payload_byte(now: int | None) -> float | None:
        if place.kind != "folder" or size != _AMPLIFIED_SIZE or now is None or before is None:
            return None
        return (now - before) / (jobs * size)

    return Row(
        size_name(size),
        {
            "jobs": jobs,
            "enqueue jobs/s": enqueueing.rate(jobs),
            "MB/s": enqueueing.rate(mb),
            "stall ms": enqueue_stalls.wall_ms,
            "of CPU": enqueue_stalls.cpu_ms,
            "full life jobs/s": life_rate,
            "MB/s ": life_rate * size / 1e6,
            "stall ms ": life_stalls.wall_ms,
            "of CPU ": life_stalls.cpu_ms,
            "written/payload: enqueue": per_payload_byte(enqueued),
            "whole life": per_payload_byte(closed),
        },
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    budget = options.megabytes * 1_000_000
    return [
        await one_size(options.store, size, max(1, min(options.jobs, budget // size)))
        for size in SIZES
    ]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=10_000, help="most jobs per size")
    parser.add_argument("--megabytes", type=positive, default=64, help="most payload per size")


BENCH = Bench(
    "payload_sizes",
    "What do payloads of 64 B to 256 KiB cost in rate, loop stalls and bytes written?",
    measure,
    arguments,
    small=("--jobs", "200", "--megabytes", "4"),
)

if __name__ == "__main__":
    BENCH.main()
