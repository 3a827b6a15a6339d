"""What a batch that was cut off has left: items, phases, money, and results for others to use."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

from taquba import Queue
from taquba_bulk import Bulk, BulkContext, JsonlSink, PaidCall
from tests.bulk.support import rows_of, until

ENDED = ["to be", "or not"]
CUT_OFF = "that is"
INPUTS = [*ENDED, CUT_OFF]
BUDGET = {"usd": 10}
RESERVED = {"usd": 2}
LARGE = b"large " * 20_000
"""More than an entry holds."""
FRESH_FOR = timedelta(hours=2)


class Translation:
    """A pipeline of two remembered phases, a shared one, and a paid call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.paid: PaidCall | None = None
        """The call for the input that is cut off."""
        self.goes_on = asyncio.Event()
        self.cut_off = asyncio.Event()

    async def run(self, ctx: BulkContext[str]) -> dict[str, int | str]:
        async def measure() -> int:
            self.calls.append(f"measure {ctx.input}")
            ctx.record_cost("characters", len(ctx.input))
            return len(ctx.input)

        async def draw() -> bytes:
            self.calls.append(f"draw {ctx.input}")
            return LARGE

        async def look_up() -> str:
            self.calls.append("look up")
            return "found"

        async def translate(call: PaidCall) -> str:
            self.calls.append(f"translate {ctx.input}")
            if ctx.input == CUT_OFF:
                self.paid = call
                self.cut_off.set()
                await self.goes_on.wait()
            ctx.record_cost("usd", 1)
            return ctx.input.upper()

        size = await ctx.memoized("measure", measure)
        assert await ctx.memoized("draw", draw) == LARGE
        found = await ctx.memoized_by_content("word", look_up, cache="words", ttl=FRESH_FOR)
        text = await ctx.paid_call("translate", translate, reserve=RESERVED)
        return {"size": size, "found": found, "text": text}


def _batch(queue: Queue, pipeline: Translation, folder: Path) -> Bulk[str, dict[str, int | str]]:
    return Bulk(
        queue,
        pipeline,
        output=JsonlSink(folder / "out.jsonl"),
        queue_name="batch",
        budget=BUDGET,
    )


async def write(queue: Queue, folder: Path) -> None:
    """Run a batch until one item makes its paid call, and the others have ended."""
    pipeline = Translation()
    bulk = _batch(queue, pipeline, folder)
    running = asyncio.create_task(bulk.run(INPUTS))
    await pipeline.cut_off.wait()
    await until(lambda: bulk.progress().succeeded == len(ENDED))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert pipeline.paid is not None
    await queue.kv_put("paid call", pipeline.paid.idempotency_key.encode())


async def work_to_the_end(queue: Queue, folder: Path) -> None:
    """The batch goes on with the call that was cut off, and with nothing else."""
    pipeline = Translation()
    pipeline.goes_on.set()
    report = await _batch(queue, pipeline, folder).run([*INPUTS, "the question"])
    assert report.complete
    assert (report.total, report.succeeded) == (4, 4)
    assert sorted(pipeline.calls) == [
        "draw the question",
        "measure the question",
        "translate that is",
        "translate the question",
    ]
    assert pipeline.paid is not None
    assert pipeline.paid.begun == 2
    assert await queue.kv_get("paid call") == pipeline.paid.idempotency_key.encode()
    assert report.cost == {"characters": 30, "usd": 4}
    # Nobody knows what the call that was cut off has cost: it counts as reserved.
    assert report.spent == {"usd": 6}
    rows = rows_of(folder / "out.jsonl")
    assert [row["output"] for row in rows] == [
        {"size": len(text), "found": "found", "text": text.upper()}
        for text in [*INPUTS, "the question"]
    ]


async def check_forgotten(queue: Queue) -> None:
    """What the batches share is not used when it has become too old."""

    async def look_up_again(ctx: BulkContext[str]) -> str:
        async def look_up() -> str:
            return "found anew"

        return await ctx.memoized_by_content("word", look_up, cache="words", ttl=FRESH_FOR)

    async with aclosing(Bulk(queue, look_up_again, queue_name="later").stream([""])) as records:
        assert [record.output async for record in records] == ["found anew"]
