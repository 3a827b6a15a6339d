"""Submitting runs: new ones, and the same again."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import Bench, Row, elapsed, expect, positive
from taquba_workflow import RunSpec, Step, StepOutcome, SubmitOutcome, Succeed, WorkflowRuntime


class Nothing:
    async def run_step(self, step: Step) -> StepOutcome:
        return Succeed()


async def submit(runtime: WorkflowRuntime, specs: list[RunSpec], callers: int) -> float:
    """Submissions per second by so many callers, each waiting for its answer."""
    left = iter(specs)

    async def caller() -> list[SubmitOutcome]:
        return [await runtime.submit(spec) for spec in left]

    with elapsed() as total:
        await asyncio.gather(*(caller() for _ in range(callers)))
    return total.rate(len(specs))


async def measure(options: argparse.Namespace) -> list[Row]:
    count, callers = options.count, options.callers
    rows: list[Row] = []
    async with options.store.open() as queue:
        runtime = WorkflowRuntime(queue, Nothing())
        own = [RunSpec(b"%064d" % n, run_id=f"run-{n}") for n in range(count)]
        for case, specs in (
            (f"without an id, {callers} callers", [RunSpec(bytes(64))] * count),
            (f"with an id, {callers} callers", own),
            (f"the same again, {callers} callers", own),
        ):
            rate = await submit(runtime, specs, callers)
            rows.append(Row(case, {"runs": count, "runs/s": rate}))
        rate = await submit(runtime, [RunSpec(bytes(64))] * max(1, count // 10), 1)
        rows.append(Row("without an id, one caller", {"runs": count // 10, "runs/s": rate}))
        await expect(queue, "workflow", pending=2 * count + max(1, count // 10))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, default=10_000, help="runs per case")
    parser.add_argument("--callers", type=positive, default=50, help="callers at the same time")


BENCH = Bench(
    "workflow_submit",
    "How many runs are durably submitted per second: with and without own ids, and again?",
    measure,
    arguments,
    small=("--count", "200"),
)

if __name__ == "__main__":
    BENCH.main()
