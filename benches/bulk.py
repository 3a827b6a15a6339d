"""Items of a batch: how fast, what resuming costs, how much memory."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benches._harness import Bench, Row, elapsed, memory_mb, positive
from taquba import Queue
from taquba_bulk import Bulk, BulkContext, BulkReport, JsonlSink

PARTS = ("first", "second", "third", "last")
PHASES = 3


async def phases(ctx: BulkContext[int]) -> int:
    """Three phases that do nothing, remembered."""

    async def phase() -> int:
        return ctx.input

    return sum([await ctx.memoized(f"{number}", phase) for number in range(PHASES)])


async def nothing(ctx: BulkContext[int]) -> None: ...


async def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        return [*await _throughput(options, Path(folder)), *await _memory(options)]


async def _throughput(options: argparse.Namespace, folder: Path) -> list[Row]:
    items = options.items
    async with options.store.open() as queue:
        fresh, first = await _run(queue, folder / "out.jsonl", items)
        resumed, second = await _run(queue, folder / "out.jsonl", items)
        again, third = await _run(queue, folder / "other.jsonl", items)
    if (first.resumed, second.resumed, third.succeeded) != (0, items, items):
        raise RuntimeError(f"not what was to be measured: {first}, {second}, {third}")
    return [
        Row("three phases, a row each", {"items/s": fresh}),
        Row("run again, all has ended", {"items/s": resumed}),
        Row("run again, output written anew", {"items/s": again}),
    ]


async def _run(queue: Queue, out: Path, items: int) -> tuple[float, BulkReport]:
    with elapsed() as total:
        report = await Bulk(queue, phases, output=JsonlSink(out)).run(range(items))
    return total.rate(items), report


async def _memory(options: argparse.Namespace) -> list[Row]:
    quarter = max(1, options.inputs // 4)
    looks: list[tuple[float, float]] = []

    def inputs() -> Iterator[int]:
        for number in range(options.inputs):
            if number % quarter == 0:
                looks.append((time.perf_counter(), memory_mb() or 0))
            yield number

    async with options.store.open() as queue:
        await Bulk(queue, nothing).run(inputs())
        looks.append((time.perf_counter(), memory_mb() or 0))
    return [
        Row(
            f"{part} quarter of {options.inputs:,} inputs, a pipeline that does nothing",
            {"items/s": quarter / (end - start), "MB at its end": mb},
        )
        for part, (start, _), (end, mb) in zip(PARTS, looks, looks[1:], strict=False)
    ]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=positive, default=5000, help="items with three phases")
    parser.add_argument("--inputs", type=positive, default=20_000, help="inputs for the memory")


BENCH = Bench(
    "bulk",
    "How many items of a batch end a second, what does it cost to run a batch again, and how much "
    "memory do inputs take?",
    measure,
    arguments,
    small=("--items", "50", "--inputs", "400"),
)

if __name__ == "__main__":
    BENCH.main()
