"""The parts of a program that run in the processes of a service, beside its handlers."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, cast

from taquba._model.describing import shown
from taquba._model.errors import InvalidArgumentType
from taquba._worker.shutdown import Shutdown
from taquba._worker.workers import Loop


class Runs(Protocol):
    """A part that runs, such as a `taquba_jobs.JobRunner`."""

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Run until `shutdown` is set."""
        ...


Part = Runs | AbstractAsyncContextManager[Any]
"""What runs in a process of a service: something with ``run(shutdown)``, or ``async with``."""


def loop_of(part: object) -> Loop:
    """The loop of a part; raises `InvalidArgumentType` for what is none."""
    run = getattr(part, "run", None)
    if callable(run) and next(iter(inspect.signature(run).parameters), None) == "shutdown":
        return cast("Loop", run)
    if isinstance(part, AbstractAsyncContextManager):
        return partial(_run_block, cast("AbstractAsyncContextManager[Any]", part))
    raise InvalidArgumentType(
        f"a part of a service is a JobRunner, a WorkflowRuntime, a CronScheduler, or anything else "
        f"with `async with`; got {shown(part)}"
    )


async def _run_block(part: AbstractAsyncContextManager[Any], shutdown: Shutdown) -> None:
    async with part:
        await shutdown.wait()
