"""What the tests of workflows share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from taquba import KvPage, Queue, QueueConfig
from taquba_workflow import RunStatus, Step, StepOutcome, WorkflowRuntime

REAL_SECONDS = 30
"""Bound on what a test waits for in real time; nothing here takes nearly as long."""

EAGER = QueueConfig(retry_backoff_base=0, retry_jitter=0)
"""Retries at once."""

StepFunction = Callable[[Step], Awaitable[StepOutcome]]


class Runs:
    """A runner made of one function; remembers the steps it ran, as (run, step, attempt)."""

    def __init__(self, function: StepFunction) -> None:
        self._function = function
        self.ran: list[tuple[str, int, int]] = []

    async def run_step(self, step: Step) -> StepOutcome:
        self.ran.append((step.run_id, step.step_number, step.attempts))
        return await self._function(step)


async def finish(runtime: WorkflowRuntime, *run_ids: str) -> list[RunStatus]:
    """Wait until runs have ended."""
    found: list[RunStatus] = []
    async with asyncio.timeout(REAL_SECONDS):
        for run_id in run_ids:
            status = await runtime.wait_for_completion(run_id, 10**8)
            assert status is not None
            assert status.state.ended, status
            found.append(status)
    return found


async def status_of(runtime: WorkflowRuntime, run_id: str) -> RunStatus:
    status = await runtime.status(run_id)
    assert status is not None
    return status


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(REAL_SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, not only events
            await asyncio.sleep(0.001)


def fresh_url() -> str:
    """A memory store of its own that can be opened more than once."""
    return f"memory://{uuid.uuid4().hex}"


async def entries(queue: Queue, prefix: str = "") -> dict[str, bytes]:
    """All caller-owned entries."""
    found: dict[str, bytes] = {}
    cursor: str | None = None
    while True:
        page: KvPage[str] = await queue.kv_scan(prefix, cursor)
        found.update(page.entries)
        cursor = page.next_cursor
        if cursor is None:
            return found
