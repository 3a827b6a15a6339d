"""Claim latency from the first to the last job of a deep backlog."""

from __future__ import annotations

import argparse
import asyncio
import time

from benches._harness import QUEUE, Bench, Row, expect, fill, latency, size_option
from taquba import Claim

_ACKED_TOGETHER = 100


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs: int = options.jobs
    seconds: list[float] = []
    async with options.store.open() as queue:
        await fill(queue, jobs)
        held: list[Claim] = []
        for number in range(1, jobs + 1):
            start = time.perf_counter()
            claim = await queue.claim(QUEUE)
            seconds.append(time.perf_counter() - start)
            if claim is None:
                raise RuntimeError(f"job {number} of {jobs} is missing")
            held.append(claim)
            if len(held) == _ACKED_TOGETHER or number == jobs:
                await asyncio.gather(*(queue.ack(claim) for claim in held))
                held.clear()
        await expect(queue, pending=0, claimed=0, done=jobs)

    parts = min(10, jobs)
    rows: list[Row] = []
    first_p50 = 0.0
    for part in range(parts):
        values = latency(seconds[jobs * part // parts : jobs * (part + 1) // parts])
        p50 = values["p50 ms"] or 0.0
        first_p50 = first_p50 or p50
        case = f"claims {jobs * part // parts + 1:,} to {jobs * (part + 1) // parts:,}"
        rows.append(Row(case, {**values, "p50 / first p50": p50 / first_p50}))
    return rows


BENCH = Bench(
    "claim_deep",
    "Does a claim stay as fast from the first to the last job of a deep backlog?",
    measure,
    size_option("--jobs", 100_000, "depth of the backlog"),
    small=("--jobs", "3000"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
