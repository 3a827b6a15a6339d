"""Parts of a program that run in the processes of a service: typed jobs, anything else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    LeaseHandle,
    Queue,
    Service,
    run_service,
)
from taquba_bulk import Bulk, BulkContext
from taquba_cron import CronScheduler
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import WorkflowContext, WorkflowRuntime, workflow
from tests.service.support import ROOT, until

PROGRAM = Path(__file__).with_name("parts_program.py")


@job(name="double")
async def double(ctx: JobContext[None], number: int) -> int:
    assert ctx.lease.store is ctx.store
    return 2 * number


@workflow(name="triple")
async def triple(ctx: WorkflowContext, number: int) -> int:
    return 3 * number


@asynccontextmanager
async def running(service: Service, *parts: Any) -> AsyncGenerator[asyncio.Task[None]]:
    shutdown = asyncio.Event()
    task = asyncio.create_task(
        run_service(service, *parts, shutdown=shutdown, handle_signals=False)
    )
    try:
        yield task
    finally:
        shutdown.set()
        await asyncio.wait([task], timeout=30)


async def test_a_runner_that_was_made_before_the_service_runs_in_it(short_path: Path) -> None:
    service = Service(short_path, fsync=False)
    runner = JobRunner(service, jobs=[double])
    async with running(service, runner) as task:
        await until(lambda: service.role == "owner")
        assert await (await runner.submit(double, 4)) == 8
    await task


async def test_a_job_runs_in_the_process_that_has_a_runner(short_path: Path) -> None:
    mine, other = Service(short_path, fsync=False), Service(short_path, fsync=False)
    submitting = JobRunner(mine, jobs=[double])
    working = JobRunner(other, jobs=[double])
    async with mine:
        await until(lambda: mine.role == "owner")
        async with running(other, working):
            handle = await submitting.submit(double, 4)
            assert await handle == 8
            assert other.role == "worker"
        assert await handle.fetch_result() == 8


async def test_anything_with_async_with_is_a_part(short_path: Path) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def part() -> AsyncGenerator[None]:
        seen.append("begins")
        try:
            yield
        finally:
            seen.append("ends")

    service = Service(short_path, fsync=False)
    async with running(service, part()):
        await until(lambda: bool(seen))
        assert seen == ["begins"]
    assert seen == ["begins", "ends"]


async def test_a_batch_helps_as_a_part(short_path: Path) -> None:
    """Its `run` runs a batch, and is not what a service is to call."""
    ran: list[Service] = []

    def batch_of(service: Service) -> Bulk[int, int]:
        async def work(ctx: BulkContext[int]) -> int:
            ran.append(service)
            await asyncio.sleep(0.01)
            return ctx.input

        return Bulk(service, work, queue_name="batch", max_concurrent=2)

    mine, other = Service(short_path, fsync=False), Service(short_path, fsync=False)
    bulk, helper = batch_of(mine), batch_of(other)
    assert other._made_parts() == [helper]
    async with mine:
        await until(lambda: mine.role == "owner")
        async with running(other, helper) as helping:
            report = await bulk.run(range(200))
            assert report.complete
            assert not helping.done()
    assert other in ran


async def test_a_part_that_fails_ends_the_service(short_path: Path) -> None:
    class Fails:
        async def run(self, shutdown: asyncio.Event | None = None) -> None:
            raise ConnectionError("no")

    ended: list[str] = []

    class Other:
        async def run(self, shutdown: asyncio.Event) -> None:
            await shutdown.wait()
            ended.append("drained")

    service = Service(short_path, fsync=False)
    with pytest.raises(ConnectionError, match="no"):
        await run_service(service, Fails(), Other(), handle_signals=False)
    assert ended == ["drained"]


async def test_what_is_no_part_is_refused(short_path: Path) -> None:
    service = Service(short_path, fsync=False)
    with pytest.raises(InvalidArgumentType, match="a part of a service is a JobRunner"):
        await run_service(service, 17)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="give the handlers to the Service"):
        await run_service(service, {"q": handle})
    with pytest.raises(InvalidArgument, match="settings for one"):
        await run_service(service, role="worker")


async def handle(job: JobRecord, lease: LeaseHandle) -> None:
    await lease.store.kv_put(f"handled/{job.id}", b"")


async def test_a_handler_can_ask_for_its_store(short_path: Path) -> None:
    service = Service(short_path, {"q": handle}, fsync=False)
    async with service:
        enqueued = await service.enqueue("q", b"")
        await service.wait_for_completion(enqueued.id, 30)
        assert await service.kv_get(f"handled/{enqueued.id}") is not None
    with pytest.raises(InvalidArgument, match="a detached lease has no store"):
        _ = LeaseHandle.detached().store


async def test_two_runners_of_one_queue_are_refused_in_one_process(short_path: Path) -> None:
    service = Service(short_path, fsync=False)
    async with service, JobRunner(service, jobs=[double]):
        await until(lambda: service.role == "owner")
        with pytest.raises(InvalidArgument, match="already served in this process"):
            await JobRunner(service, jobs=[double]).run()
    # Another process may serve it as well: an owner does not mind.
    async with Queue.open(short_path, inbox=True, producer_socket=True, fsync=False) as queue:
        member = Service(short_path, role="worker", fsync=False)
        async with member, JobRunner(member, jobs=[double]) as theirs:
            assert await (await theirs.submit(double, 3)) == 6
            async with JobRunner(queue, jobs=[double]) as ours:
                assert await (await ours.submit(double, 5)) == 10


async def test_a_command_runs_what_was_made_for_a_service(short_path: Path) -> None:
    store = short_path / "store"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "taquba", "run", "tests.service.parts_program:service"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "STORE": str(store)},
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        service = Service(store, role="producer", fsync=False)
        async with service:
            runner = JobRunner(service, jobs=[double])
            assert await (await runner.submit(double, 4)) == 8
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_the_same_objects_run_in_one_event_loop_after_another(short_path: Path) -> None:
    """As where a test client starts an application again and again."""
    service = Service(short_path, fsync=False)
    runner = JobRunner(service, jobs=[double])
    flows = WorkflowRuntime(service, workflows=[triple])
    cron = CronScheduler(service)
    cron.schedule("nightly", "0 0 * * *", "q", b"")

    async def once(number: int) -> None:
        async with running(service, runner, flows, cron) as task:
            await until(lambda: service.role == "owner")
            assert await (await runner.submit(double, number)) == 2 * number
            assert await (await flows.start(triple, number)) == 3 * number
        await task

    for number in range(2):
        asyncio.run(once(number))
