"""Step transitions of runs whose steps do nothing."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import Bench, Row, elapsed, expect, positive
from taquba import Queue
from taquba_workflow import Continue, RunSpec, Step, StepOutcome, Succeed, WorkflowRuntime

WORKFLOW = "workflow"


class CountDown:
    """Goes on until its payload is 0, with or without something staged at each step."""

    def __init__(self, *, stages: bool) -> None:
        self._stages = stages

    async def run_step(self, step: Step) -> StepOutcome:
        if self._stages:
            step.effects.kv_put(f"at/{step.run_id}", step.payload)
        left = int(step.payload)
        return Continue(b"%d" % (left - 1)) if left else Succeed()


async def chains(
    queue: Queue, runs: int, steps: int, concurrency: int, *, stages: bool, replay: bool
) -> float:
    """Steps per second, until every run's end is durable; the runs are submitted before."""
    runtime = WorkflowRuntime(
        queue,
        CountDown(stages=stages),
        max_concurrent_steps=concurrency,
        step_output_replay=replay,
    )
    spec = RunSpec(b"%d" % (steps - 1))
    submitted = await asyncio.gather(*(runtime.submit(spec) for _ in range(runs)))
    with elapsed() as total:
        async with runtime:
            for run in submitted:
                await runtime.wait_for_completion(run.run_id, 3600)
    await expect(queue, WORKFLOW, pending=0, claimed=0, done=runs * steps)
    return total.rate(runs * steps)


async def measure(options: argparse.Namespace) -> list[Row]:
    steps = options.steps
    rows: list[Row] = []
    for case, runs, variant in (
        ("side by side", options.runs_at_once, {}),
        ("side by side, an entry staged", options.runs_at_once, {"stages": True}),
        ("side by side, output replay", options.runs_at_once, {"replay": True}),
        ("one run alone", 1, {}),
    ):
        async with options.store.open() as queue:
            flags = {"stages": False, "replay": False, **variant}
            rate = await chains(queue, runs, steps, options.concurrency, **flags)
        rows.append(Row(case, {"runs": runs, "steps": runs * steps, "steps/s": rate}))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-at-once", type=positive, default=100, help="runs side by side")
    parser.add_argument("--steps", type=positive, default=100, help="steps of each run")
    parser.add_argument("--concurrency", type=positive, default=100, help="steps at a time")


BENCH = Bench(
    "workflow_steps",
    "How many step transitions per second, each one durable commit, do no-op runs make?",
    measure,
    arguments,
    small=("--runs-at-once", "5", "--steps", "10"),
)

if __name__ == "__main__":
    BENCH.main()
