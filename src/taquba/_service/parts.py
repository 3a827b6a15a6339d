"""The parts of a program that run in the processes of a service, beside its handlers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, cast

import anyio

from taquba._model.describing import shown
from taquba._model.errors import InvalidArgumentType
from taquba._model.own_tasks import was_cancelled
from taquba._worker.shutdown import Shutdown

Work = Callable[[Shutdown], Coroutine[Any, Any, None]]
"""Runs until it is told to stop, and ends when what it began has ended."""


class Runs(Protocol):
    """A part that runs, such as a `taquba_jobs.JobRunner`."""

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Run until `shutdown` is set."""
        ...


Part = Runs | AbstractAsyncContextManager[Any]
"""What runs in a process of a service: something with ``run(shutdown)``, or ``async with``."""


def work_of(part: object) -> Work:
    """How a part runs; raises `InvalidArgumentType` for what is none."""
    run = getattr(part, "run", None)
    if callable(run) and next(iter(inspect.signature(run).parameters), None) == "shutdown":
        return cast("Work", run)
    if isinstance(part, AbstractAsyncContextManager):
        return partial(_run_block, cast("AbstractAsyncContextManager[Any]", part))
    raise InvalidArgumentType(
        f"a part of a service is a JobRunner, a WorkflowRuntime, a CronScheduler, or anything else "
        f"with `async with`; got {shown(part)}"
    )


async def _run_block(part: AbstractAsyncContextManager[Any], shutdown: Shutdown) -> None:
    async with part:
        await shutdown.wait()


async def run_all(parts: Sequence[Work], shutdown: Shutdown) -> None:
    """Run parts until `shutdown` is set.

    If one of them ends before, the others are told to end as well, and its error is raised.
    """
    stop = asyncio.Event()
    told = asyncio.create_task(shutdown.wait(), name="taquba-shutdown")
    told.add_done_callback(lambda _: stop.set())
    running = [asyncio.create_task(part(stop), name="taquba-part") for part in parts]
    try:
        await asyncio.wait([told, *running], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.gather(*running, return_exceptions=True)
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*running, return_exceptions=True)
        raise
    finally:
        told.cancel()
    for task in running:
        if task.cancelled():
            raise was_cancelled(task)
        task.result()
