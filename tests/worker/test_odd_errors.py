"""Whatever an error does that a function raises: its job is settled, and the caller is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from taquba import JobRecord, LeaseHandle, Queue, QueueConfig
from taquba_bulk import Bulk, BulkContext
from taquba_jobs import JobContext, JobFailed, JobRunner, job
from taquba_workflow import RunFailed, StepOptions, WorkflowContext, WorkflowRuntime, workflow
from tests.worker.odd_errors import ODD
from tests.worker.support import REAL_SECONDS, finish, working


async def fail(job: JobRecord, lease: LeaseHandle) -> None:
    raise ODD[job.payload.decode()]()


def fail_in_a_thread(job: JobRecord, lease: LeaseHandle) -> None:
    raise ODD[job.payload.decode()]()


@job(name="odd", max_attempts=1)
async def typed(ctx: JobContext[None], name: str) -> None:
    raise ODD[name]()


@job(name="plain", max_attempts=1)
def typed_in_a_thread(ctx: JobContext[None], name: str) -> None:
    raise ODD[name]()


async def odd_step(name: str) -> None:
    raise ODD[name]()


@workflow(name="odd")
async def function(ctx: WorkflowContext, name: str) -> None:
    raise ODD[name]()


@workflow(name="step")
async def with_a_step(ctx: WorkflowContext, name: str) -> None:
    await ctx.step_with(StepOptions(max_attempts=1), odd_step, name)


async def item(ctx: BulkContext[str]) -> None:
    raise ODD[ctx.input]()


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (fail, {}),
        (fail, {"timeout": 60, "on_cancel": "interrupt"}),
        (fail_in_a_thread, {}),
        (fail_in_a_thread, {"executor": lambda: ThreadPoolExecutor(1)}),
    ],
    ids=["async", "bounded", "thread", "executor"],
)
async def test_a_handler_may_raise_what_it_likes(
    queue: Queue, handler: Any, options: dict[str, Any]
) -> None:
    ids = [(await queue.enqueue("q", name.encode(), max_attempts=1)).id for name in ODD]
    async with working(queue, handler, concurrency=3, **options):
        for name, dead in zip(ODD, await finish(queue, *ids), strict=True):
            assert dead is not None, name
            assert dead.last_error, name


@pytest.mark.parametrize("which", [typed, typed_in_a_thread], ids=["async", "thread"])
async def test_the_caller_of_a_typed_job_is_told(queue: Queue, which: Any) -> None:
    async with JobRunner(queue, jobs=[typed, typed_in_a_thread]) as runner:
        for name in ODD:
            handle = await runner.submit(which, name)
            with anyio.fail_after(REAL_SECONDS), pytest.raises(JobFailed):
                await handle


@pytest.mark.parametrize("which", [function, with_a_step], ids=["function", "step"])
async def test_the_caller_of_a_function_is_told(queue: Queue, which: Any) -> None:
    async with WorkflowRuntime(queue, workflows=[function, with_a_step]) as runtime:
        for name in ODD:
            handle = await runtime.start(which, name)
            with anyio.fail_after(REAL_SECONDS), pytest.raises(RunFailed):
                await handle


async def test_an_item_of_a_batch_fails() -> None:
    with anyio.fail_after(REAL_SECONDS):
        async with Queue.open("memory://", default_config=QueueConfig(max_attempts=1)) as queue:
            report = await Bulk(queue, item).run(list(ODD))
    assert (report.failed, report.complete) == (len(ODD), True)
