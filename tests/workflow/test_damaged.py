"""Damaged records of runs: each is a miss, named in the log, and hinders nothing else."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest

from taquba import EnqueueRequest, Queue, QueueConfig, StoreError
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    CallKind,
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    SignalOutcome,
    Step,
    StepOutcome,
    Succeed,
    WorkflowContext,
    WorkflowRuntime,
    workflow,
)
from tests.workflow.functions.support import result_of, running
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
    assert status.state is RunState.FAILED
    assert "a job with id 'taken' already exists" in (status.reason or "")
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
    assert (status.state, status.result) == (RunState.SUCCEEDED, b"again")
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
        assert await runtime.signal("go", b"now") is SignalOutcome.DELIVERED
        (status,) = await finish(runtime, "r")
        assert status.result == b"now"
        await queue.kv_put("workflow/signal/workflow/go", row)
        assert await runtime.signal("go") is SignalOutcome.BUFFERED


# -- listings, and what goes over many records ----------------------------------------------------


async def done(step: Step) -> StepOutcome:
    return Succeed()


@pytest.mark.parametrize("key", ["odd", "1/2/3", "x/r", "00000000000001/other"])
async def test_retention_goes_on_past_what_it_cannot_read(
    queue: Queue, mock_clock: MockClock, key: str
) -> None:
    odd = f"workflow/expiry/workflow/{key}"
    await queue.kv_put(odd, b"")
    await queue.kv_put("workflow/run/workflow/other", b"\xc1")
    async with WorkflowRuntime(queue, Runs(done), memo_retention=60) as runtime:
        for run_id in ("a", "b"):
            await runtime.submit(RunSpec(b"", run_id=run_id))
            await finish(runtime, run_id)
            await mock_clock.advance(61)
            assert await runtime.status(run_id) is None
    assert set(await entries(queue, "workflow/")) == {odd, "workflow/run/workflow/other"}


async def test_a_run_whose_row_cannot_be_read_is_named(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Runs(done)) as runtime:
        await queue.kv_put("workflow/run/workflow/r", b"\xc1")
        with pytest.raises(StoreError, match="delete the entry 'workflow/run/workflow/r'"):
            await runtime.status("r")
        await queue.kv_delete("workflow/run/workflow/r")
        assert (await runtime.submit(RunSpec(b"", run_id="r"))).new


async def test_what_is_parked_is_listed_with_a_job_that_is_no_step(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(done), workflows=[other])
    handle = await runtime.start(other)
    await queue.enqueue("workflow", b"", job_id="foreign")
    for _ in range(2):
        claim = await queue.claim("workflow")
        assert claim is not None
        await queue.nack(claim, "parked: nobody knows it")
    found = {run.run_id: run.last_error or "" for run in await runtime.parked()}
    assert found.keys() == {handle.run_id, "foreign"}
    assert "job 'foreign' is not a step of a run" in found["foreign"]


@workflow(name="other")
async def other(ctx: WorkflowContext) -> str:
    await ctx.step(nothing)
    await ctx.step(nothing)
    await ctx.sleep(60)
    return "done"


async def nothing() -> None: ...


async def test_a_history_that_cannot_be_read_parks_its_run_and_is_listed(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, other) as runtime:
        handle = await runtime.start(other)
        await mock_clock.advance(1)
        prefix = f"workflow/memo/workflow/{handle.run_id}/h/"
        first, second, third = sorted(await entries(queue, prefix))
        kept = await queue.kv_get(first)
        await queue.kv_put(first, b"\xc1")
        await mock_clock.advance(61)
        status = await status_of(runtime, handle.run_id)
        assert f"parked: the entry {first!r} of its history cannot be read" in (
            status.last_error or ""
        )
        assert [run.run_id for run in await runtime.parked()] == [handle.run_id]
        record, *others = await runtime.history(handle.run_id)
        assert (record.call, record.kind) == ("0", CallKind.UNKNOWN)
        assert first in (record.error or "")
        assert [record.kind for record in others] == ["step", "sleep"]
        assert kept is not None
        await queue.kv_put(first, kept)
        await mock_clock.advance(31)
        assert await result_of(handle) == "done"
        del second, third


FAR = 2**63 + 1
LIVE = msgpack.packb([0, b"", FAR, 0, "j"])
ENDED = msgpack.packb([1, b"", 1, 1, "failed", FAR, None, None])


@pytest.mark.parametrize("row", [*DAMAGED, LIVE, ENDED])
async def test_the_row_of_a_run_that_cannot_be_read_is_named(queue: Queue, row: bytes) -> None:
    async def run(step: Step) -> StepOutcome:
        return Succeed(b"")

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await queue.kv_put("workflow/run/workflow/r", row)
        with pytest.raises(StoreError, match="delete the entry 'workflow/run/workflow/r'"):
            await runtime.status("r")
