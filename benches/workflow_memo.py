"""What a step pays for remembering."""

from __future__ import annotations

import argparse
import asyncio

from benches._harness import Bench, Row, elapsed, positive
from taquba_workflow import RunSpec, Step, StepOutcome, Succeed, WorkflowRuntime


class Remembers:
    """Puts, or gets, a number of values of one size."""

    def __init__(self, count: int, size: int) -> None:
        self._keys = [f"{n}" for n in range(count)]
        self._value = bytes(size)
        self.rates: dict[str, float] = {}

    async def run_step(self, step: Step) -> StepOutcome:
        with elapsed() as putting:
            for key in self._keys:
                await step.memo.put(key, self._value)
        with elapsed() as together:
            await asyncio.gather(*(step.memo.put(key, self._value) for key in self._keys))
        with elapsed() as getting:
            for key in self._keys:
                await step.memo.get(key)
        count = len(self._keys)
        self.rates = {
            "puts/s": putting.rate(count),
            "puts/s together": together.rate(count),
            "gets/s": getting.rate(count),
        }
        return Succeed()


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for name, size, count in (
        ("64 B, an entry", 64, options.count),
        ("16 KiB, an entry", 16 * 1024, options.count),
        ("256 KiB, an object", 256 * 1024, max(1, options.count // 10)),
    ):
        runner = Remembers(count, size)
        async with (
            options.store.open() as queue,
            WorkflowRuntime(queue, runner) as runtime,
        ):
            run = await runtime.submit(RunSpec(b""))
            await runtime.wait_for_completion(run.run_id, 3600)
        rows.append(Row(name, {"values": count, **runner.rates}))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, default=1000, help="values that a step remembers")


BENCH = Bench(
    "workflow_memo",
    "What does it cost a step to remember values of several sizes, and to find them again?",
    measure,
    arguments,
    small=("--count", "20"),
)

if __name__ == "__main__":
    BENCH.main()
