"""Durable functions whose steps do nothing: steps, waits, and the replay of a long history."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from benches._harness import Bench, Row, elapsed, positive
from taquba import Queue
from taquba._model.keys import Op
from taquba_workflow import WorkflowContext, WorkflowRuntime, workflow


async def nothing(number: int) -> int:
    return number


@workflow(name="steps")
async def in_a_row(ctx: WorkflowContext, steps: int) -> None:
    for number in range(steps):
        await ctx.step(nothing, number)


@workflow(name="branches")
async def at_once(ctx: WorkflowContext, steps: int) -> None:
    await ctx.gather(*(ctx.step(nothing, number) for number in range(steps)))


@workflow(name="turns")
async def turns(ctx: WorkflowContext, signals: int) -> None:
    for _ in range(signals):
        await ctx.wait_signal(ctx.run_id, timeout=0)


@workflow(name="replay")
async def replay(ctx: WorkflowContext, steps: int) -> None:
    await at_once(ctx, steps)
    await ctx.wait_signal(ctx.run_id)


class Writes:
    """Counts what is written to the store: one write is one commit, shared by all who wait."""

    def __init__(self, queue: Queue) -> None:
        self.count = 0
        engine = queue._owner.engine
        self._write = engine.write
        engine.write = self._counted  # type: ignore[method-assign]

    async def _counted(self, ops: Sequence[Op]) -> None:
        self.count += 1
        await self._write(ops)


async def calls(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for case, function, runs, size in (
        ("steps, side by side", in_a_row, options.runs_at_once, options.steps),
        ("steps, one function alone", in_a_row, 1, options.steps * 10),
        ("steps, gathered", at_once, 1, options.steps * 10),
        ("waits, side by side", turns, options.runs_at_once, options.waits),
        ("waits, one function alone", turns, 1, options.waits * 10),
    ):
        async with options.store.open() as queue:
            runtime = WorkflowRuntime(queue, workflows=[function])
            handles = await asyncio.gather(*(runtime.start(function, size) for _ in range(runs)))
            writes = Writes(queue)
            with elapsed() as total:
                async with runtime:
                    for handle in handles:
                        await handle
            number = runs * size
            rates = {"calls/s": total.rate(number), "commits/call": writes.count / number}
        rows.append(Row(case, {"runs": runs, "calls": number, **rates}))
    return rows


async def resume(options: argparse.Namespace) -> list[Row]:
    steps = options.steps * 10
    async with options.store.open() as queue:
        runtime = WorkflowRuntime(queue, workflows=[replay])
        async with runtime:
            handle = await runtime.start(replay, steps)
            while not (status := await handle.status()) or not status.signal_keys:  # noqa: ASYNC110 - until it waits
                await asyncio.sleep(0.01)
            with elapsed() as total:
                await runtime.signal(handle.run_id)
                await handle
    return [Row("signal to end, behind recorded steps", {"calls": steps, "ms": total.ms})]


async def measure(options: argparse.Namespace) -> list[Row]:
    return [*await calls(options), *await resume(options)]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-at-once", type=positive, default=100, help="runs side by side")
    parser.add_argument("--steps", type=positive, default=100, help="steps of each, alone 10 times")
    parser.add_argument("--waits", type=positive, default=10, help="waits of each, alone 10 times")


BENCH = Bench(
    "workflow_functions",
    "How many steps and waits per second do durable functions make, and what does a replay cost?",
    measure,
    arguments,
    small=("--runs-at-once", "3", "--steps", "5", "--waits", "2"),
)

if __name__ == "__main__":
    BENCH.main()
