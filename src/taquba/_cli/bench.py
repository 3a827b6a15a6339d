"""`bench`: how fast a queue is at a location, measured on a temporary store."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer
from ulid import ULID

from taquba import JobRecord, LeaseHandle, Queue, run_worker
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.options import AsJson, command
from taquba._cli.output import Column, note, print_json, print_table
from taquba._cli.stores import NoStore, reading
from taquba._objects.location import StoreLocation
from taquba._objects.space import ObjectSpace

_PAYLOAD: Final = b"x" * 64
_IDLE_JOBS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """The result of one measurement; times in milliseconds."""

    what: str
    jobs: int
    per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "bench",
        "taquba bench ./scratch",
        "taquba bench s3://bucket/scratch --jobs 500 --concurrency 100",
    )(bench)


async def bench(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where to measure: a location without a store.")
    ],
    jobs: Annotated[int, typer.Option("--jobs", min=100, help="Jobs of each run.")] = 2000,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Producers, and handlers.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """Measure enqueues, processing and idle latency.

    It creates a store below the URL and removes it at the end. Jobs have 64 bytes; every enqueue
    and ack is durable when it is counted.
    """
    async with _scratch(url) as scratch:
        if not as_json:
            note(f"measuring at {scratch}")
        async with Queue.open(scratch) as queue:
            results = [
                await _enqueue(queue, jobs, concurrency),
                await _process(queue, jobs, concurrency),
                await _idle(queue),
            ]
    if as_json:
        print_json(
            {
                "url": url,
                "concurrency": concurrency,
                "results": [asdict(result) for result in results],
            }
        )
        return
    print_table(
        (
            Column("WHAT"),
            Column("JOBS", right=True),
            Column("JOBS/S", right=True),
            Column("P50 MS", right=True),
            Column("P99 MS", right=True),
        ),
        [
            [
                result.what,
                f"{result.jobs:,}",
                "" if result.per_second is None else f"{result.per_second:,.0f}",
                "" if result.p50_ms is None else f"{result.p50_ms:.1f}",
                "" if result.p99_ms is None else f"{result.p99_ms:.1f}",
            ]
            for result in results
        ],
    )


@asynccontextmanager
async def _scratch(url: str) -> AsyncGenerator[str]:
    """A location for a store below `url`, cleared at the end; refused if `url` has a store."""
    try:
        async with reading(url):
            raise CommandError(
                f"{url} holds a taquba store, which bench must not touch; name another location",
                ExitCode.REFUSED,
            )
    except NoStore:
        pass
    parent = url if url.endswith("/") else f"{url}/"
    scratch = f"{parent}taquba-bench-{ULID()}"
    try:
        yield scratch
    finally:
        await _remove(StoreLocation.parse(scratch))


async def _remove(location: StoreLocation) -> None:
    if location.folder is not None:
        await asyncio.to_thread(shutil.rmtree, location.folder, ignore_errors=True)
        return
    space = ObjectSpace(location, fsync=False)
    async for objects in space.list(""):
        await space.delete([found.key for found in objects])
    await space.close()


async def _enqueue(queue: Queue, jobs: int, producers: int) -> _Result:
    """Durable enqueues; each producer waits for one before it makes the next."""
    left = jobs
    latencies: list[float] = []

    async def produce() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            await queue.enqueue("bench", _PAYLOAD)
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(producers):
            group.create_task(produce())
    elapsed = time.perf_counter() - start
    return _Result(
        what=f"enqueue, {producers} producers",
        jobs=jobs,
        per_second=jobs / elapsed,
        **_percentiles(latencies),
    )


async def _process(queue: Queue, jobs: int, handlers: int) -> _Result:
    """Claim, run a handler that does nothing, acknowledge durably."""
    left = jobs
    all_done = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            all_done.set()

    start = time.perf_counter()
    await run_worker(queue, "bench", handle, concurrency=handlers, shutdown=all_done)
    elapsed = time.perf_counter() - start
    return _Result(what=f"claim and ack, {handlers} handlers", jobs=jobs, per_second=jobs / elapsed)


async def _idle(queue: Queue) -> _Result:
    """From the call of enqueue to the start of the handler, one job at a time."""
    started, stop = asyncio.Event(), asyncio.Event()
    latencies: list[float] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()

    worker = asyncio.create_task(run_worker(queue, "idle", handle, shutdown=stop))
    for _ in range(_IDLE_JOBS):
        start = time.perf_counter()
        await queue.enqueue("idle", _PAYLOAD)
        await started.wait()
        latencies.append(time.perf_counter() - start)
        started.clear()
    stop.set()
    await worker
    return _Result(
        what="idle queue, enqueue to handler", jobs=_IDLE_JOBS, **_percentiles(latencies)
    )


def _percentiles(latencies: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100)
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
