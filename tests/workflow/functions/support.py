"""What the tests of functions share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from taquba import Queue
from taquba.testing import MockClock
from taquba_workflow import (
    CallRecord,
    RunHandle,
    RunStatus,
    StartOptions,
    Workflow,
    WorkflowRuntime,
)
from tests.workflow.support import REAL_SECONDS, status_of

ID = StartOptions(run_id="r")


def options(run_id: str) -> StartOptions:
    return StartOptions(run_id=run_id)


@asynccontextmanager
async def running(
    queue: Queue, *workflows: Workflow[..., Any], **settings: Any
) -> AsyncGenerator[WorkflowRuntime]:
    """A runtime that runs these functions."""
    async with WorkflowRuntime(queue, workflows=workflows, **settings) as runtime:
        yield runtime


async def result_of(handle: RunHandle[Any]) -> Any:
    """The result, within real time."""
    async with asyncio.timeout(REAL_SECONDS):
        return await handle


async def settled(clock: MockClock, runtime: WorkflowRuntime, run_id: str = "r") -> RunStatus:
    """Where a run is once it has gone as far as it can now."""
    await clock.advance(0)
    return await status_of(runtime, run_id)


async def calls(runtime: WorkflowRuntime, run_id: str = "r") -> list[str]:
    """The history in short."""
    return [line(record) for record in await runtime.history(run_id)]


def line(record: CallRecord) -> str:
    return f"{record.call} {record.kind} {record.name} {record.state}"
