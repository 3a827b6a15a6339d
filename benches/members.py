"""Processes of a service that are not the owner: what they work off, and how soon."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from benches import full_life
from benches._harness import (
    QUEUE,
    Bench,
    Row,
    elapsed,
    expect,
    fill,
    latency,
    positive,
)
from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    Service,
    SettlementEffects,
    Store,
    WorkerSpec,
    run_worker,
)

PAYLOAD = bytes(64)


class Child:
    """A process that takes part, and does as it is told by lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self) -> str:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the bench has failed")
        return line.decode().strip()

    async def do(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(words) + "\n").encode())
        await self.process.stdin.drain()


@asynccontextmanager
async def child(url: str, role: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.members", "--child", url, role),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    started = Child(process)
    try:
        await started.says()
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def take_part(url: str, role: str) -> None:
    """The work of a child: one command per line, each answered by one line."""
    opened = (
        Queue.open(url, inbox=True, producer_socket=True)
        if role == "owner"
        else Service(url, role=role)  # type: ignore[arg-type]
    )
    async with opened as store:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = json.loads(line)
            await COMMANDS[command](store, *arguments)


async def _work(store: Store, concurrency: int) -> None:
    """Work until killed; the first job is reported."""

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        pass

    print("working", flush=True)
    await run_worker(store, QUEUE, handler, concurrency=concurrency)


async def _report(store: Store) -> None:
    """Say of each job when its handler began."""

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        print(time.monotonic(), flush=True)

    print("working", flush=True)
    await run_worker(store, QUEUE, handler, concurrency=8)


async def _enqueue(store: Store, callers: int, jobs: int) -> None:
    await enqueue_all(store, callers, jobs)
    print("done", flush=True)


COMMANDS: dict[str, Callable[..., object]] = {
    "work": _work,
    "report": _report,
    "enqueue": _enqueue,
}  # type: ignore[assignment]


async def enqueue_all(store: Store, callers: int, jobs: int) -> None:
    async def task() -> None:
        for _ in range(jobs // callers):
            await store.enqueue(QUEUE, PAYLOAD)

    await asyncio.gather(*(task() for _ in range(callers)))


async def worked_off_here(url: str, jobs: int, concurrency: int, case: str, service: bool) -> Row:
    """By a worker loop in the owner's process."""
    async with (
        Service(url) if service else Queue.open(url, inbox=True, producer_socket=True)
    ) as store:
        while isinstance(store, Service) and store.role != "owner":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await fill(store, jobs)
        cpu = time.process_time()
        rate = await full_life.work(store, jobs, concurrency)
        spent = time.process_time() - cpu
        await expect(store, pending=0, claimed=0, done=jobs)
    return Row(case, {"jobs": jobs, "jobs/s": rate, "owner us/job": spent / jobs * 1e6})


async def worked_off(url: str, members: int, jobs: int, concurrency: int) -> Row:
    """By other processes."""
    async with (
        AsyncExitStack() as stack,
        await Queue.open(url, inbox=True, producer_socket=True) as queue,
    ):
        workers = [await stack.enter_async_context(child(url, "worker")) for _ in range(members)]
        for worker in workers:
            await worker.do("work", concurrency)
            await worker.says()
        # Until the worker loops have said that they have room.
        await asyncio.sleep(0.2)
        await fill_at_once(queue, jobs)
        cpu = time.process_time()
        with elapsed() as total:
            while (await queue.stats(QUEUE)).done < jobs:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.002)
        spent = time.process_time() - cpu
    case = f"{members} other member{'s' if members > 1 else ''}"
    return Row(case, {"jobs": jobs, "jobs/s": total.rate(jobs), "owner us/job": spent / jobs * 1e6})


async def fill_at_once(queue: Queue, jobs: int) -> None:
    """Fill the queue while nobody claims from it."""
    gate = queue._owner.gate
    gate.shut()
    await fill(queue, jobs)
    gate.unshut()
    queue._owner.wake_claimers()


async def idle(url: str, jobs: int) -> Row:
    """From the call of `enqueue` in one process to the handler in another; a third owns."""
    seconds: list[float] = []
    async with (
        child(url, "owner"),
        child(url, "worker") as worker,
        Service(url, role="producer") as service,
    ):
        await worker.do("report")
        await worker.says()
        await asyncio.sleep(0.2)
        for _ in range(jobs):
            began = time.monotonic()
            enqueued = asyncio.ensure_future(service.enqueue(QUEUE, PAYLOAD))
            seconds.append(float(await worker.says()) - began)
            await enqueued
            await asyncio.sleep(0.005)
    return Row("idle: enqueue in A to handler in B", {"jobs": jobs, **latency(seconds)})


async def enqueued_here(url: str, jobs: int) -> Row:
    async with await Queue.open(url, inbox=True, producer_socket=True) as queue:
        with elapsed() as total:
            await enqueue_all(queue, 50, jobs)
    return Row("enqueue: 50 callers in the owner", {"jobs": jobs, "jobs/s": total.rate(jobs)})


async def enqueued_elsewhere(url: str, members: int, jobs: int) -> Row:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(child(url, "owner"))
        producers = [
            await stack.enter_async_context(child(url, "producer")) for _ in range(members)
        ]
        with elapsed() as total:
            for producer in producers:
                await producer.do("enqueue", 50, jobs // members)
            for producer in producers:
                await producer.says()
    case = f"enqueue: 50 callers in each of {members} other processes"
    return Row(case, {"jobs": jobs, "jobs/s": total.rate(jobs)})


def burn(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
    """A plain handler that needs a processor for some milliseconds; it says where it runs."""
    if job.payload == b"where":
        return SettlementEffects(kv_writes={f"process/{os.getpid()}": b""})
    sum(number * number for number in range(200_000))
    return None


async def burnt(url: str, processes: int | None, jobs: int) -> Row:
    """CPU-bound plain handlers, two at a time in each process."""
    spec = WorkerSpec(QUEUE, burn, concurrency=2, processes=processes)
    async with Service(url, [spec]) as service:
        while len((await service.kv_scan("process/")).entries) < (processes or 1):
            await service.enqueue(QUEUE, b"where")
            await asyncio.sleep(0.01)
        while (await service.stats(QUEUE)).pending:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        before = (await service.stats(QUEUE)).done
        with elapsed() as total:
            await service.enqueue_batch([EnqueueRequest(QUEUE, PAYLOAD) for _ in range(jobs)])
            while (await service.stats(QUEUE)).done < before + jobs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    where = f"processes={processes}" if processes else "one process"
    return Row(f"CPU-bound plain handlers, {where}", {"jobs": jobs, "jobs/s": total.rate(jobs)})


async def measure(options: argparse.Namespace) -> list[Row]:
    jobs, concurrency = options.jobs, options.concurrency
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="taquba-bench-") as folder:
        for service, case in (
            (False, "run_worker in the owner"),
            (True, "a service of one process"),
        ):
            rows.append(
                await worked_off_here(f"{folder}/{service}", jobs, concurrency, case, service)
            )
        rows += [
            await worked_off(f"{folder}/m{members}", members, jobs, concurrency)
            for members in options.members
        ]
        rows.append(await idle(f"{folder}/idle", max(1, jobs // 100)))
        rows.append(await enqueued_here(f"{folder}/e1", jobs))
        rows.append(await enqueued_elsewhere(f"{folder}/e4", 4, jobs))
        for processes in (None, 2):
            rows.append(await burnt(f"{folder}/c{processes}", processes, max(1, jobs // 100)))
    return rows


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=20_000, help="jobs of most cases")
    parser.add_argument("--concurrency", type=positive, default=200, help="handlers at a time")
    parser.add_argument(
        "--members", type=positive, nargs="+", default=[1, 2, 8], help="other processes"
    )


BENCH = Bench(
    "members",
    "What do the other processes of a service work off and enqueue, and how soon, compared with "
    "the owner (folders of its own: --store is not used)?",
    measure,
    arguments,
    small=("--jobs", "200", "--members", "1"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(take_part(sys.argv[2], sys.argv[3]))
    else:
        BENCH.main()
