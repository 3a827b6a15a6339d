"""A process of a service that works on a batch, and runs it if told to.

python member_child.py STORE ROLE OUT CALLS ITEMS

Every call of a phase appends a line to CALLS, as a service that is paid by the call would count it.
Each line of standard input begins a run of the batch; a line of output says how it ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Literal

from taquba import Service
from taquba_bulk import Bulk, BulkContext, JsonlSink, PaidCall
from tests.bulk.bulk_child import CONFIG, PHASES, WORKERS


class Paid:
    def __init__(self, calls: int) -> None:
        self._calls = calls

    async def run(self, ctx: BulkContext[int]) -> list[int]:
        return [await self._phase(ctx, number) for number in range(PHASES)]

    async def _phase(self, ctx: BulkContext[int], number: int) -> int:
        async def call(paid: PaidCall) -> int:
            os.write(self._calls, b"%d %d %d\n" % (ctx.input, number, os.getpid()))
            ctx.record_cost("usd", 1)
            await asyncio.sleep(0.005)
            return ctx.input * PHASES + number

        return await ctx.paid_call(f"{number}", call, reserve={"usd": 1})


async def main(
    store: str, role: Literal["auto", "worker"], out: str, calls: Path, items: int
) -> None:
    file = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with (
        Service(store, role=role, fsync=False, takeover_after=1, queue_configs=CONFIG) as service,
        Bulk(
            service,
            Paid(file),
            output=JsonlSink(out),
            key=str,
            max_concurrent=WORKERS,
            budget={"usd": 10**6},
        ) as bulk,
    ):
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            report = await bulk.run(range(items))
            assert report.complete
            print(
                json.dumps([report.total, report.succeeded, report.cost, report.spent]), flush=True
            )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])))  # type: ignore[arg-type]
