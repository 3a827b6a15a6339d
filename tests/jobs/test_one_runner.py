"""One runner has its queues to itself, and tells when its tasks are cut off."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taquba import InvalidArgument, JobRecord, LeaseHandle, Queue, TaqubaError, run_worker
from taquba_jobs import JobContext, JobRunner, job
from taquba_workflow import WorkflowContext, WorkflowRuntime, workflow
from tests.worker.support import REAL_SECONDS, working


@job(name="double")
async def double(ctx: JobContext, number: int) -> int:
    return 2 * number


@workflow(name="nothing")
async def nothing(ctx: WorkflowContext) -> None: ...


async def other(job: JobRecord, lease: LeaseHandle) -> None: ...


def runners(queue: Queue) -> list[Any]:
    return [
        JobRunner(queue, jobs=[double], queue_name="shared"),
        WorkflowRuntime(queue, workflows=[nothing], queue_name="shared", memo_retention=60),
    ]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
async def test_a_second_runner_of_a_queue_is_refused(queue: Queue, first: int, second: int) -> None:
    async with runners(queue)[first]:
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match=r"'shared' is already served"):
            await runners(queue)[second].run()
    # The first has gone: another may come.
    async with runners(queue)[second]:
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [0, 1])
async def test_a_worker_beside_a_runner_is_refused(queue: Queue, kind: int) -> None:
    async with runners(queue)[kind]:
        await asyncio.sleep(0)
        with pytest.raises(
            InvalidArgument, match=r"'shared' is already served .*use another queue"
        ):
            await run_worker(queue, "shared", other)
    async with working(queue, other, name="shared"):
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match=r"'shared' is already served"):
            await runners(queue)[kind].run()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0, "taquba-jobs-retention"),
        (0, "taquba-jobs-workers"),
        (1, "taquba-workflow-retention"),
        (1, "taquba-workflow-workers"),
    ],
)
async def test_a_runner_whose_task_is_cancelled_fails(queue: Queue, kind: int, name: str) -> None:
    running = asyncio.create_task(runners(queue)[kind].run())
    for _ in range(3):
        await asyncio.sleep(0)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
    task.cancel()
    async with asyncio.timeout(REAL_SECONDS):
        with pytest.raises(TaqubaError, match=rf"{name}.*cancelled from outside"):
            await running


@pytest.mark.parametrize("kind", [0, 1])
async def test_who_waits_in_the_block_of_a_runner_that_fails_is_told(
    queue: Queue, kind: int
) -> None:
    async def wait() -> None:
        async with asyncio.timeout(REAL_SECONDS), runners(queue)[kind]:
            await asyncio.sleep(0)
            (working,) = [t for t in asyncio.all_tasks() if t.get_name().endswith("-workers")]
            working.cancel()
            # As for a handle whose job nobody runs any more.
            await asyncio.sleep(10 * REAL_SECONDS)

    with pytest.raises(TaqubaError, match="cancelled from outside"):
        await wait()
    # The cancellation is over with the block.
    await asyncio.sleep(0)


async def test_who_awaits_a_job_is_told_that_the_executor_broke(queue: Queue) -> None:
    @job(name="plain")
    def plain(ctx: JobContext[None]) -> int:
        return 1

    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        async with (
            asyncio.timeout(REAL_SECONDS),
            JobRunner(queue, jobs=[plain], executor=executor) as runner,
        ):
            await (await runner.submit(plain))
