"""A process that runs tasks."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import django

from taquba import QueueConfig, Service, TaqubaError, WorkerSpec, run_service
from taquba._service.child import Orders
from taquba._service.processes import Processes, Program
from taquba._worker.workers import stopping
from taquba.integrations.django._backend import TaqubaBackend
from taquba.integrations.django._running import TaskRunner, sweep
from taquba.integrations.django._tasks import task_backends

_log: Final = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.2
_SWEEP_SECONDS: Final = 600.0

Say = Callable[[str], object]


async def work(
    backend: TaqubaBackend, concurrency: int, drain_timeout: float | None, say: Say
) -> None:
    """Run the tasks of a backend in this process, until a signal ends it."""
    service = _service(backend, concurrency, drain_timeout)
    async with _beside(service, say):
        await run_service(service)


async def work_in_processes(
    backend: TaqubaBackend, concurrency: int, drain_timeout: float | None, processes: int
) -> None:
    """Run the tasks of a backend in child processes, until a signal ends this one."""
    child = partial(_work_as_told, backend.alias, concurrency, drain_timeout)
    children = Processes([Program.pack("taquba_worker", child, processes)], drain_timeout)
    async with (
        stopping(None, children.interrupt, handle_signals=True) as stop,
        children.running(stop),
    ):
        await stop.wait()


async def _work_as_told(
    alias: str, concurrency: int, drain_timeout: float | None, orders: Orders
) -> None:
    """Run the tasks of a backend in a child process, which has not set Django up."""
    await asyncio.to_thread(django.setup)
    backend = task_backends[alias]
    assert isinstance(backend, TaqubaBackend)
    service = _service(backend, concurrency, drain_timeout)
    async with _beside(service, partial(print, flush=True)):
        await service._run_as_told(orders)  # pyright: ignore[reportPrivateUsage] - as its own child processes do


def _service(backend: TaqubaBackend, concurrency: int, drain_timeout: float | None) -> Service:
    runner = TaskRunner(backend)
    return Service(
        backend.url,
        [WorkerSpec(name, runner, concurrency=concurrency) for name in sorted(backend.queues)],
        drain_timeout=drain_timeout,
        # Arguments that are large are kept with the job only.
        default_config=QueueConfig(keep_done_jobs=backend.keep_ms / 1000),
    )


@asynccontextmanager
async def _beside(service: Service, say: Say) -> AsyncGenerator[None]:
    """What goes on while a service runs."""
    tasks = [
        asyncio.create_task(_say_roles(service, say), name="taquba-django-role"),
        asyncio.create_task(_sweep(service), name="taquba-django-sweep"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _say_roles(service: Service, say: Say) -> None:
    said = ""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        role = service.role
        if role != said:
            said = role
            what = "owns the store, and runs tasks" if role == "owner" else "runs tasks"
            say(f"taquba_worker {os.getpid()}: {role}; this process {what}")


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await sweep(service)
        except TaqubaError as error:
            _log.warning("results that are kept no longer could not be removed: %s", error)
