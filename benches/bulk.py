"""Items of a batch: how fast, in how many processes, what resuming costs, how much memory."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benches._harness import Bench, Row, elapsed, memory_mb, positive
from taquba import Queue, Service
from taquba_bulk import Bulk, BulkContext, BulkReport, JsonlSink

PARTS = ("first", "second", "third", "last")
PHASES = 3


async def phases(ctx: BulkContext[int]) -> int:
    """Three phases that do nothing, remembered."""

    async def phase() -> int:
        return ctx.input

    return sum([await ctx.memoized(f"{number}", phase) for number in range(PHASES)])


async def nothing(ctx: BulkContext[int]) -> None: ...


async def burn(ctx: BulkContext[int]) -> int:
    """A phase that needs a processor for some milliseconds."""

    async def phase() -> int:
        return sum(number * number for number in range(200_000))

    return await ctx.memoized("burn", phase)


async def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        return [
            *await _throughput(options, Path(folder)),
            *await _memory(options),
            *await _members(options, folder),
        ]


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


async def _members(options: argparse.Namespace, folder: str) -> list[Row]:
    """CPU-bound phases in one member of a service, and in two; this process owns the store."""
    rows: list[Row] = []
    for case, members in (("one member", 1), ("two members", 2)):
        url = f"{folder}/{members}"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(await Queue.open(url, inbox=True, producer_socket=True))
            first, *_ = [await stack.enter_async_context(_member(url)) for _ in range(members)]
            # The others come at the latest while these items run.
            await _run_there(first, options.burns // 10)
            seconds = await _run_there(first, options.burns)
        rows.append(Row(f"CPU-bound phases, {case}", {"items/s": options.burns / seconds}))
    return rows


@asynccontextmanager
async def _member(url: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.bulk", "--member", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield process
    finally:
        process.kill()
        await process.wait()


async def _run_there(member: asyncio.subprocess.Process, items: int) -> float:
    """Have a member run a batch, and return the seconds that it took."""
    assert member.stdin is not None
    assert member.stdout is not None
    member.stdin.write(b"%d\n" % items)
    await member.stdin.drain()
    return float(await member.stdout.readline())


async def _take_part(url: str) -> None:
    """Work on batches, and run one for each line, until killed."""
    done = 0
    async with (
        Service(url, role="worker") as service,
        Bulk(service, burn, max_concurrent=16) as bulk,
    ):
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            with elapsed() as total:
                report = await bulk.run(range(done, done + int(line)))
            done += report.total
            print(report.total / total.rate(report.total), flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=positive, default=5000, help="items with three phases")
    parser.add_argument("--inputs", type=positive, default=20_000, help="inputs for the memory")
    parser.add_argument("--burns", type=positive, default=500, help="items with CPU-bound phases")


BENCH = Bench(
    "bulk",
    "How many items of a batch end a second, what does it cost to run a batch again, how much "
    "memory do inputs take, and how much faster are two processes?",
    measure,
    arguments,
    small=("--items", "50", "--inputs", "400", "--burns", "20"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        asyncio.run(_take_part(sys.argv[2]))
    else:
        BENCH.main()
