"""Packages in processes that are not the owner: what they work off, and how soon."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benches._harness import Bench, Row, elapsed, latency, positive
from taquba import Service
from taquba_jobs import JobContext, JobRunner, job


@job(name="noop")
async def noop(ctx: JobContext[None], number: int) -> int:
    return number


@asynccontextmanager
async def child(url: str, what: str) -> AsyncIterator[None]:
    """A process that takes part, until it is killed; it has begun when this is entered."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.members_packages", "--child", url, what),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise RuntimeError("a process of the bench has failed")
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def take_part(url: str, what: str) -> None:
    """The work of a child."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            Service(url, role="auto" if what == "owner" else "worker")
        )
        while what == "owner" and service.role != "owner":  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        if what == "jobs":
            runner = JobRunner(service, jobs=[noop], concurrency=200)
            await stack.enter_async_context(runner)
            # Until the owner knows of its room.
            await service.stats("jobs")
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


async def submitted(runner: JobRunner[None], jobs: int, callers: int) -> float:
    """Jobs per second: submitted, run, and awaited for their results."""
    numbers = iter(range(jobs))

    async def caller() -> None:
        for number in numbers:
            assert await (await runner.submit(noop, number)) == number

    with elapsed() as total:
        await asyncio.gather(*(caller() for _ in range(callers)))
    return total.rate(jobs)


async def typed_jobs(url: str, others: tuple[str, ...], jobs: int, case: str) -> list[Row]:
    """Submitted and awaited here; run by `others`, or here where there are none."""
    async with AsyncExitStack() as stack:
        if "owner" in others:
            await stack.enter_async_context(child(url, "owner"))
        role = "producer" if "owner" in others else "auto"
        service = await stack.enter_async_context(Service(url, role=role))  # type: ignore[arg-type]
        while role == "auto" and service.role != "owner":  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        runner = JobRunner(service, jobs=[noop], concurrency=200)
        for _ in range(others.count("jobs")):
            await stack.enter_async_context(child(url, "jobs"))
        if not others:
            await stack.enter_async_context(runner)
        await submitted(runner, 200, 50)
        rate = await submitted(runner, jobs, 200)
        seconds: list[float] = []
        for number in range(max(1, jobs // 100)):
            began = time.monotonic()
            await (await runner.submit(noop, number))
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
    return [
        Row(f"typed jobs, {case}", {"jobs": jobs, "jobs/s": rate}),
        Row(f"idle: a typed job, {case}", {"jobs": len(seconds), **latency(seconds)}),
    ]


CASES = (
    ("in one process", ()),
    ("run by another process", ("jobs",)),
    ("run by two others", ("jobs", "jobs")),
    ("by another, a third owns", ("owner", "jobs")),
)


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        for number, (case, others) in enumerate(CASES):
            rows += await typed_jobs(f"{folder}/{number}", others, options.jobs, case)
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=5_000, help="typed jobs of each case")


BENCH = Bench(
    "members_packages",
    "What do typed jobs cost that are submitted in one process and run in another (folders of its "
    "own: --store is not used)?",
    measure,
    arguments,
    small=("--jobs", "100"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(take_part(sys.argv[2], sys.argv[3]))
    else:
        BENCH.main()
