"""Services and the owner's socket, as a type checker sees them; never run."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Literal, assert_type

from fastapi import FastAPI
from starlette.applications import Starlette

from taquba import (
    EnqueueResult,
    InboxConfig,
    JobRecord,
    LeaseHandle,
    Producer,
    Queue,
    QueueConfig,
    QueueStats,
    Service,
    SyncProducer,
    WaitOutcome,
    WorkerSpec,
    run_service,
)
from taquba.integrations.starlette import service_lifespan
from taquba_cron import CronScheduler
from taquba_jobs import JobRunner
from taquba_workflow import WorkflowRuntime


async def handle(job: JobRecord, lease: LeaseHandle) -> None: ...


def handle_plainly(job: JobRecord, lease: LeaseHandle) -> None: ...


async def a_service() -> None:
    async with Service(
        "s3://bucket/prefix",
        {"mail": handle},
        role="auto",
        takeover_after=timedelta(seconds=5),
        drain_timeout=10,
        queue_configs={"mail": QueueConfig(max_attempts=5)},
        inbox=InboxConfig(poll_interval=1),
    ) as service:
        assert_type(service, Service)
        assert_type(service.role, Literal["owner", "worker", "producer"])
        assert_type(await service.enqueue("mail", b"", idempotency_key="key"), EnqueueResult)
        assert_type(await service.enqueue_batch([]), list[EnqueueResult])
        assert_type(await service.get_job("id"), JobRecord | None)
        assert_type(await service.stats("mail"), QueueStats)
        assert_type(await service.wait_for_completion("id", 5), WaitOutcome)
    await run_service("./data", [WorkerSpec("mail", handle_plainly, concurrency=5)], fsync=False)
    await run_service(
        Service("./data", [WorkerSpec("mail", handle_plainly, processes=2, timeout=5, kill=True)])
    )
    service = Service("./data")
    runner = JobRunner(service, jobs=[])
    await run_service(
        service, runner, WorkflowRuntime(service, workflows=[]), CronScheduler(service)
    )
    await run_service("./data", {"mail": handle}, contextlib.nullcontext(), role="worker")
    await run_service(service, 17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Service("./data", {}, role="king")  # type: ignore[arg-type]
    Service("./data", {"mail": handle}, bogus=1)  # type: ignore[call-arg]


async def the_socket(producer: Producer, threads: SyncProducer) -> None:
    await Queue.open("./data", inbox=True, producer_socket=True)
    assert_type(await producer.get_job("id"), JobRecord | None)
    assert_type(await producer.stats("mail"), QueueStats)
    assert_type(await producer.wait_for_completion("id", 5), WaitOutcome)
    assert_type(threads.get_job("id"), JobRecord | None)
    assert_type(threads.stats("mail"), QueueStats)
    assert_type(threads.wait_for_completion("id", 5), WaitOutcome)


FastAPI(lifespan=service_lifespan("./data", {"sms": handle_plainly}))
FastAPI(lifespan=service_lifespan(Service("./data"), JobRunner(Service("./data"), jobs=[])))
app = Starlette(lifespan=service_lifespan("./data", {"mail": handle}, role="producer"))
