"""The owner of a service is killed: how soon does another process do its work?"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benches._harness import QUEUE, Bench, Row, positive
from benches.s3_latency import new_store, slow_s3
from taquba import InboxNotOpen, JobRecord, LeaseHandle, Service, run_service


@asynccontextmanager
async def taking_part(url: str, takeover_after: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that stands for election, works, and prints when."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.takeover", "--child", url, str(takeover_after)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def take_part(url: str, takeover_after: float) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        print(time.monotonic(), flush=True)

    await run_service(url, {QUEUE: handle}, takeover_after=takeover_after)


async def handled(process: asyncio.subprocess.Process) -> float:
    assert process.stdout is not None
    return float(await process.stdout.readline())


async def one_death(store: str, url: str, options: argparse.Namespace) -> Row:
    """Kill the owner while producers go on; seconds until a heir has handled a job."""
    takeover_after: float = options.takeover_after
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(taking_part(url, takeover_after))
        service = await stack.enter_async_context(Service(url, {}, role="producer"))
        await _first_enqueue(service)
        await handled(owner)
        standing = [
            await stack.enter_async_context(taking_part(url, takeover_after))
            for _ in range(options.candidates)
        ]
        # Until each of them has seen the owner a few times.
        await asyncio.sleep(max(2, takeover_after))
        producing = asyncio.create_task(_produce(service))
        owner.kill()
        killed_at = time.monotonic()
        first = [asyncio.create_task(handled(heir)) for heir in standing]
        done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        seconds = min(task.result() for task in done) - killed_at
        for task in (*first, producing):
            task.cancel()
        await asyncio.wait([*first, producing])
    return Row(f"{store}, {options.candidates} candidates", {"s until a job is handled": seconds})


async def _first_enqueue(service: Service) -> None:
    """Wait for the owner, too."""
    while True:
        try:
            await service.enqueue(QUEUE, b"")
            return
        except InboxNotOpen:
            await asyncio.sleep(0.05)


async def _produce(service: Service) -> None:
    while True:
        await service.enqueue(QUEUE, b"")
        await asyncio.sleep(0.01)


async def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        rows = [await one_death("folder", folder, options)]
    async with slow_s3(options.latency_ms):
        rows.append(await one_death("S3", new_store(), options))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=positive, default=3, help="processes that stand by")
    parser.add_argument("--takeover-after", type=float, default=5, help="seconds; counts on S3")
    parser.add_argument("--latency-ms", type=float, default=20, help="of every request to S3")


BENCH = Bench(
    "takeover",
    "When the owner of a service is killed, how soon does another process handle a job "
    "(stores of its own: a folder, and S3; --store is not used)?",
    measure,
    arguments,
    small=("--candidates", "1", "--takeover-after", "0.5", "--latency-ms", "1"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(take_part(sys.argv[2], float(sys.argv[3])))
    else:
        BENCH.main()
