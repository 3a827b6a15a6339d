"""Many leases that expire together, and a store opened with many claimed rows."""

from __future__ import annotations

import argparse
import asyncio
import time

from benches._harness import (
    QUEUE,
    Bench,
    Place,
    Row,
    close_fenced,
    elapsed,
    expect,
    fill,
    latency,
    size_option,
    stalls,
)

_CLAIMED_TOGETHER = 10_000


async def storm(place: Place, jobs: int) -> Row:
    """Every lease expires at one moment, while a producer goes on enqueueing."""
    seconds: list[float] = []
    async with place.open() as queue:
        await fill(queue, jobs)
        deadline = time.monotonic() + 0.3 + jobs / 10_000
        claimed = 0
        while claimed < jobs:
            lease = deadline - time.monotonic()
            if lease <= 0:
                raise RuntimeError("claiming took longer than planned: choose fewer --jobs")
            claimed += len(await queue.claim_batch(QUEUE, _CLAIMED_TOGETHER, lease=lease))
        await expect(queue, pending=0, claimed=jobs)
        await asyncio.sleep(max(0, deadline - time.monotonic()))
        with stalls() as found:
            while (await queue.stats(QUEUE)).claimed:
                start = time.perf_counter()
                await queue.enqueue("other", bytes(64))
                seconds.append(time.perf_counter() - start)
            late = time.monotonic() - deadline
        await expect(queue, pending=jobs, claimed=0)
    return Row(
        "leases that expire together",
        {
            "jobs": jobs,
            "all back after ms": late * 1000,
            "jobs/s": jobs / late,
            "longest stall ms": found.wall_ms,
            "of CPU ms": found.cpu_ms,
            "enqueue meanwhile p50 ms": latency(seconds)["p50 ms"] if seconds else None,
            "its max ms": latency(seconds)["max ms"] if seconds else None,
        },
    )


async def reopen(place: Place, jobs: int, *, claim: bool) -> Row:
    """Open a store whose owner disappeared, with all its jobs claimed or all pending."""
    url = place.new(shared=True)
    old = await place.open(url)
    try:
        await fill(old, jobs)
        claimed = 0
        while claim and claimed < jobs:
            claimed += len(await old.claim_batch(QUEUE, _CLAIMED_TOGETHER, lease=3600))
        # Claims do not wait for durability; a durable commit carries those before it.
        await old.kv_put("mark", b"")
        with elapsed() as opening, stalls() as found:
            new = await place.open(url)
        with elapsed() as first:
            if await new.claim(QUEUE) is None:
                raise RuntimeError("no job came back")
        await expect(new, pending=jobs - 1, claimed=1)
        await new.close()
    finally:
        await close_fenced(old)
    return Row(
        f"open with {'claimed' if claim else 'pending'} rows",
        {
            "jobs": jobs,
            "all back after ms": opening.ms,
            "jobs/s": opening.rate(jobs),
            "longest stall ms": found.wall_ms,
            "of CPU ms": found.cpu_ms,
            "first claim ms": first.ms,
        },
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    place: Place = options.store
    return [
        await storm(place, options.jobs),
        await reopen(place, options.jobs, claim=True),
        await reopen(place, options.jobs, claim=False),
    ]


BENCH = Bench(
    "reaper_storm",
    "How fast do many jobs come back whose leases expire together, or whose owner is gone?",
    measure,
    size_option("--jobs", 50_000, "claimed jobs"),
    small=("--jobs", "1000"),
    runs=1,
)

if __name__ == "__main__":
    BENCH.main()
