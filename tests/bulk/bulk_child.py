"""A process that runs a batch, until it is done or killed.

python bulk_child.py STORE OUT CALLS ITEMS

Every call of a phase appends a line to CALLS, as a service that is paid by the call would count it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from taquba import Queue, QueueConfig
from taquba_bulk import Bulk, BulkContext, JsonlSink

CONFIG = {"bulk": QueueConfig(max_attempts=10**6, retry_backoff_base=0, retry_jitter=0)}
PHASES = 3
WORKERS = 8


class Paid:
    def __init__(self, calls: int) -> None:
        self._calls = calls

    async def run(self, ctx: BulkContext[int]) -> dict[str, int]:
        return {
            f"phase {phase}": await ctx.memoized(
                f"{phase}", lambda phase=phase: self._call(ctx, phase)
            )
            for phase in range(PHASES)
        }

    async def _call(self, ctx: BulkContext[int], phase: int) -> int:
        os.write(self._calls, b"%d %d\n" % (ctx.input, phase))
        ctx.record_cost("calls", 1)
        await asyncio.sleep(random.random() * 0.002)
        return ctx.input * PHASES + phase


async def main(store: str, out: str, calls: Path, items: int) -> None:
    file = os.open(calls, os.O_WRONLY | os.O_APPEND)
    async with Queue.open(store, fsync=False, queue_configs=CONFIG) as queue:
        bulk = Bulk(queue, Paid(file), output=JsonlSink(out), max_concurrent=WORKERS)
        report = await bulk.run(range(items))
    assert (report.total, report.succeeded, report.complete) == (items, items, True)
    assert report.cost == {"calls": items * PHASES}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
