"""A process that ends at any of its commits: the next one completes the batch, each row once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from taquba import Queue, QueueConfig, TaqubaError
from taquba_bulk import Bulk, BulkContext, JsonlSink, PaidCall
from tests.bulk.support import PATIENT, fresh_url, rows_of
from tests.workflow.crashing import after_writes, die_at

ITEMS = 4
PHASES = 2
WORKERS = 2
CONFIG: dict[str, QueueConfig] = {"bulk": PATIENT}


class Phased:
    """Counts the calls of phases, as a paid service would."""

    budget: Mapping[str, float] | None = None

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, int]] = Counter()
        self.keys: set[str] = set()

    async def run(self, ctx: BulkContext[int]) -> int:
        return sum([await self.phase(ctx, n) for n in range(PHASES)])

    async def phase(self, ctx: BulkContext[int], number: int) -> int:
        return await ctx.memoized(f"{number}", partial(self.call, ctx, number))

    async def call(self, ctx: BulkContext[int], number: int, paid: PaidCall | None = None) -> int:
        self.calls[ctx.input, number] += 1
        if paid is not None:
            self.keys.add(paid.idempotency_key)
        ctx.record_cost("calls", 1)
        return 10 * ctx.input + number

    def check_spent(self, spent: Mapping[str, float]) -> None:
        assert spent == {}


class Paid(Phased):
    """The phases are paid calls."""

    budget: ClassVar = {"calls": 100.0}

    async def phase(self, ctx: BulkContext[int], number: int) -> int:
        call = partial(self.call, ctx, number)
        return await ctx.paid_call(f"{number}", call, reserve={"calls": 1})

    def check_spent(self, spent: Mapping[str, float]) -> None:
        # Every call that was made is paid, and those that may have been when the process ended.
        assert self.calls.total() <= spent["calls"] <= self.calls.total() + WORKERS
        assert len(self.keys) <= ITEMS * PHASES + WORKERS


async def run_until(url: str, out: Path, pipeline: Phased, writes: int) -> bool:
    """Run the batch in a process that ends after some writes; whether it came to its end."""
    queue = await Queue.open(url, queue_configs=CONFIG)
    dying = die_at(queue, after_writes(writes))
    bulk = bulk_of(queue, out, pipeline)
    running = asyncio.create_task(bulk.run(range(ITEMS)))
    dead = asyncio.create_task(dying.died.wait())
    await asyncio.wait((running, dead), return_when=asyncio.FIRST_COMPLETED)
    complete = not dying.died.is_set()
    dead.cancel()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # Opening fences the former owner, as a new process would; only then is it closed.
    async with Queue.open(url, queue_configs=CONFIG, take_over=True):
        with suppress(TaqubaError):
            await queue.close()
    return complete


async def complete(url: str, out: Path, pipeline: Phased) -> None:
    async with Queue.open(url, queue_configs=CONFIG) as queue:
        report = await bulk_of(queue, out, pipeline).run(range(ITEMS))
    assert (report.total, report.succeeded, report.complete) == (ITEMS, ITEMS, True)
    assert report.cost == {"calls": ITEMS * PHASES}
    pipeline.check_spent(report.spent)


def bulk_of(queue: Queue, out: Path, pipeline: Phased) -> Bulk[int, int]:
    return Bulk(
        queue,
        pipeline,
        output=JsonlSink(out),
        key=str,
        max_concurrent=WORKERS,
        budget=pipeline.budget,
    )


@pytest.mark.parametrize("kind", [Phased, Paid])
async def test_each_row_comes_once_whichever_commit_is_the_last(
    tmp_path: Path, kind: type[Phased]
) -> None:
    whole = kind()
    await complete(fresh_url(), tmp_path / "whole.jsonl", whole)
    expected = rows_of(tmp_path / "whole.jsonl")
    assert set(whole.calls.values()) == {1}
    writes, over = 0, False
    while not over:
        url, out, pipeline = fresh_url(), tmp_path / f"{writes}.jsonl", kind()
        over = await run_until(url, out, pipeline, writes)
        await complete(url, out, pipeline)
        assert rows_of(out) == expected, writes
        # At most what each worker was at is done again.
        assert pipeline.calls.total() <= ITEMS * PHASES + WORKERS, writes
        writes += 1
    assert writes > 10
