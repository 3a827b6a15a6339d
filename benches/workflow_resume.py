"""How soon runs go on in the next process life."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import Bench, Row, elapsed, positive
from taquba_workflow import Continue, RunSpec, Step, StepOutcome, Succeed, WorkflowRuntime


class Hangs:
    """Remembers one value, then does not come to an end."""

    def __init__(self) -> None:
        self.hanging = 0
        self.all = asyncio.Event()
        self.expected = 0

    async def run_step(self, step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"")
        await step.memo.put("k", bytes(64))
        self.hanging += 1
        if self.hanging == self.expected:
            self.all.set()
        await asyncio.Event().wait()
        return Succeed()


class GoesOn:
    async def run_step(self, step: Step) -> StepOutcome:
        assert await step.memo.get("k") is not None
        return Succeed()


async def measure(options: argparse.Namespace) -> list[Row]:
    count = options.count
    url = options.store.new(shared=True)
    queue = await options.store.open(url)
    runner = Hangs()
    runner.expected = count
    runtime = WorkflowRuntime(queue, runner, max_concurrent_steps=count)
    running = asyncio.create_task(runtime.run())
    for n in range(count):
        await runtime.submit(RunSpec(b"", run_id=f"run-{n}"))
    await runner.all.wait()
    # Closed with every step claimed: the next owner finds the store as after a crash.
    await queue.close()
    await asyncio.wait([running])
    running.exception()

    with elapsed() as opening:
        queue = await options.store.open(url)
    async with queue:
        with elapsed() as finishing:
            async with WorkflowRuntime(queue, GoesOn()) as runtime:
                with elapsed() as first:
                    await runtime.wait_for_completion("run-0", 3600)
                for n in range(count):
                    await runtime.wait_for_completion(f"run-{n}", 3600)
    return [
        Row(
            "runs interrupted in a step",
            {
                "runs": count,
                "open ms": opening.ms,
                "first end ms": first.ms,
                "ends/s": finishing.rate(count),
            },
        )
    ]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, default=2000, help="runs that are interrupted")


BENCH = Bench(
    "workflow_resume",
    "How soon do runs that were interrupted go on, and end, with the next owner?",
    measure,
    arguments,
    small=("--count", "20"),
)

if __name__ == "__main__":
    BENCH.main()
