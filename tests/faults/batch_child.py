"""A batch whose paid calls are written down by their callee, until it is through or killed.

    python -m tests.faults.batch_child STORE BATCH ROWS CALLS ITEMS

Ends with 0 when all items have succeeded, `CANNOT_OPEN` or `STORE_FAILED` otherwise.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from typing import Final

from taquba import Queue, QueueConfig, TaqubaError
from taquba_bulk import Bulk, BulkContext, JsonlSink, PaidCall

CANNOT_OPEN: Final = 3
STORE_FAILED: Final = 4

PRICE: Final = 0.25
_LARGE: Final = 100_000
"""Length of every tenth answer; it is kept outside of the rows."""
_CONFIG: Final = QueueConfig(max_attempts=10**6, retry_backoff_base=0.05, retry_backoff_max=0.5)


def answer_to(number: int) -> str:
    return str(number) * (_LARGE if number % 10 == 0 else 1)


class Paying:
    """A pipeline whose callee keeps a list of what it was asked."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    async def run(self, ctx: BulkContext[int]) -> str:
        async def call(_: PaidCall) -> str:
            os.write(self._calls, b"%d\n" % ctx.input)
            ctx.record_cost("usd", PRICE)
            await asyncio.sleep(0.01)
            return answer_to(ctx.input)

        async def ask(paid: PaidCall) -> str:
            """The callee knows what it was asked, and makes no second call of it."""
            asked = os.pread(self._calls, os.fstat(self._calls).st_size, 0).split()
            return await (call(paid) if b"%d" % ctx.input not in asked else found())

        async def found() -> str:
            ctx.record_cost("usd", PRICE)
            return answer_to(ctx.input)

        prepared = await ctx.memoized("prepare", lambda: asyncio.sleep(0.005, ctx.input))
        assert prepared == ctx.input
        return await ctx.paid_call("call", call, reserve={"usd": 1.0}, on_unknown=ask)


async def main(store: str, batch: str, rows: str, calls: str, items: int) -> int:
    file = os.open(calls, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        queue = await Queue.open(store, queue_configs={batch: _CONFIG})
    except TaqubaError:
        traceback.print_exc()
        return CANNOT_OPEN
    try:
        async with queue:
            bulk = Bulk(
                queue,
                Paying(file),
                output=JsonlSink(rows),
                max_concurrent=10,
                queue_name=batch,
                budget={"usd": 10.0 * items},
            )
            report = await bulk.run(range(items))
    except TaqubaError:
        traceback.print_exc()
        return STORE_FAILED
    assert (report.succeeded, report.complete) == (items, True), report
    # Of a call that was cut off it counts what was reserved, or what it had cost by then.
    assert PRICE * items <= report.spent["usd"] <= 10.0 * items, report
    return 0


if __name__ == "__main__":
    store, batch, rows, calls, items = sys.argv[1:]
    sys.exit(asyncio.run(main(store, batch, rows, calls, int(items))))
