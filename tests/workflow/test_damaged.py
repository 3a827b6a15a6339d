"""Damaged records of runs: each is a miss, named in the log, and hinders nothing else."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest

from taquba import EnqueueRequest, Queue, QueueConfig
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    SignalOutcome,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.workflow.support import EAGER, Runs, entries, finish, status_of

DAMAGED = [b"", b"\xc1", b"\x93\x00", msgpack.packb(7), msgpack.packb([1, 2, 3]), b"\x02x"]


async def refused(step: Step) -> StepOutcome:
    step.effects.enqueue(EnqueueRequest("side", b"", job_id="taken"))
    return Succeed()


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_replayed_output_that_is_refused_ends_its_run_after_its_attempts(
    open_queue: OpenQueue, mock_clock: MockClock, attempts: int
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_jitter=0))
    await queue.enqueue("blocker", b"", job_id="taken")
    runs = Runs(refused)
    async with WorkflowRuntime(queue, runs, step_output_replay=True) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=attempts))
        for _ in range(2 * attempts + 2):
            await mock_clock.advance(300)
        status = await status_of(runtime, "r")
    assert status.state is RunState.failed
    assert "a job with id 'taken' exists already" in (status.reason or "")
    assert len(runs.ran) == 1
    assert await entries(queue, "workflow/memo/") == {}


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_a_kept_output_that_cannot_be_read_is_a_step_to_run_again(
    open_queue: OpenQueue, row: bytes
) -> None:
    queue = await open_queue(default_config=EAGER)

    async def run(step: Step) -> StepOutcome:
        return Succeed(b"again")

    runs = Runs(run)
    runtime = WorkflowRuntime(queue, runs, step_output_replay=True)
    await runtime.submit(RunSpec(b"", run_id="r"))
    claim = await queue.claim("workflow")
    assert claim is not None
    await queue.nack(claim, "its process died after it had kept this")
    await queue.kv_put(f"workflow/memo/workflow/r/0/r/{sha256(b'').hexdigest()}", b"\0" + row)
    async with runtime:
        (status,) = await finish(runtime, "r")
    assert (status.state, status.result) == (RunState.succeeded, b"again")
    assert runs.ran == [("r", 0, 2)]


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_a_memo_that_cannot_be_read_is_a_miss(open_queue: OpenQueue, row: bytes) -> None:
    queue = await open_queue(default_config=EAGER)

    async def run(step: Step) -> StepOutcome:
        key = f"workflow/memo/workflow/r/{step.step_number}/k/m"
        await step.memo.put("m", b"kept")
        await queue.kv_put(key, row or b"\x07")
        assert await step.memo.get("m") is None
        await step.memo.put("m", b"kept again")
        return Succeed(await step.memo.get("m") or b"")

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.result == b"kept again"


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_a_signal_whose_row_cannot_be_read_is_sent_and_waited_for_anew(
    queue: Queue, mock_clock: MockClock, row: bytes
) -> None:
    async def run(step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"", OnSignal("go"))
        return Succeed(step.signal or b"none")

    await queue.kv_put("workflow/signal/workflow/go", row)
    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(0)
        assert await runtime.signal("go", b"now") is SignalOutcome.delivered
        (status,) = await finish(runtime, "r")
        assert status.result == b"now"
        await queue.kv_put("workflow/signal/workflow/go", row)
        assert await runtime.signal("go") is SignalOutcome.buffered
