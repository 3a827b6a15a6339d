"""A process that ends at any of its commits: the next one completes the batch, each row once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from taquba import Queue, QueueConfig, TaqubaError
from taquba_bulk import Bulk, BulkContext, JsonlSink
from tests.bulk.support import PATIENT, fresh_url, rows_of
from tests.workflow.crashing import after_writes, die_at

ITEMS = 4
PHASES = 2
CONFIG: dict[str, QueueConfig] = {"bulk": PATIENT}


class Phased:
    """Counts the calls of phases, as a paid service would."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, int]] = Counter()

    async def run(self, ctx: BulkContext[int]) -> int:
        return sum([await ctx.memoized(f"{n}", self._phase(ctx, n)) for n in range(PHASES)])

    def _phase(self, ctx: BulkContext[int], number: int) -> Callable[[], asyncio.Future[int]]:
        def phase() -> asyncio.Future[int]:
            self.calls[ctx.input, number] += 1
            ctx.record_cost("calls", 1)
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            done.set_result(10 * ctx.input + number)
            return done

        return phase


async def run_until(url: str, out: Path, pipeline: Phased, writes: int) -> bool:
    """Run the batch in a process that ends after some writes; whether it came to its end."""
    queue = await Queue.open(url, queue_configs=CONFIG)
    dying = die_at(queue, after_writes(writes))
    bulk = Bulk(queue, pipeline, output=JsonlSink(out), key=str, max_concurrent=2)
    running = asyncio.create_task(bulk.run(range(ITEMS)))
    dead = asyncio.create_task(dying.died.wait())
    await asyncio.wait((running, dead), return_when=asyncio.FIRST_COMPLETED)
    complete = not dying.died.is_set()
    dead.cancel()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # Opening fences the former owner, as a new process would; only then is it closed.
    async with Queue.open(url, queue_configs=CONFIG):
        with suppress(TaqubaError):
            await queue.close()
    return complete


async def complete(url: str, out: Path, pipeline: Phased) -> None:
    async with Queue.open(url, queue_configs=CONFIG) as queue:
        bulk = Bulk(queue, pipeline, output=JsonlSink(out), key=str, max_concurrent=2)
        report = await bulk.run(range(ITEMS))
    assert (report.total, report.succeeded, report.complete) == (ITEMS, ITEMS, True)
    assert report.cost == {"calls": ITEMS * PHASES}


async def test_each_row_comes_once_whichever_commit_is_the_last(tmp_path: Path) -> None:
    whole = Phased()
    await complete(fresh_url(), tmp_path / "whole.jsonl", whole)
    expected = rows_of(tmp_path / "whole.jsonl")
    assert set(whole.calls.values()) == {1}
    writes, over = 0, False
    while not over:
        url, out, pipeline = fresh_url(), tmp_path / f"{writes}.jsonl", Phased()
        over = await run_until(url, out, pipeline, writes)
        await complete(url, out, pipeline)
        assert rows_of(out) == expected, writes
        # At most what each of the two workers was at is done again.
        assert pipeline.calls.total() <= ITEMS * PHASES + 2, writes
        writes += 1
    assert writes > 10
