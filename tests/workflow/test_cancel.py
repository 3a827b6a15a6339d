"""Cancelling runs, in every state and at every moment."""

from __future__ import annotations

import asyncio

import pytest

from taquba import CancelRequested, EnqueueRequest, JobNotFound, JobStatus, Queue
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    After,
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
from tests.crash.held_engine import hold_engine
from tests.workflow.support import EAGER, Runs, entries, finish, fresh_url, status_of, until


async def never(step: Step) -> StepOutcome:
    pytest.fail("this step is not to run")


async def test_a_run_that_waits_for_a_worker_ends_at_once(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    await runtime.submit(RunSpec(b"", run_id="r"))
    assert await runtime.cancel("r")
    status = await status_of(runtime, "r")
    assert (status.state, status.reason) == (RunState.CANCELLED, "cancelled on request")
    assert (await queue.stats("workflow")).pending == 0
    assert not await runtime.cancel("r")


async def test_there_is_nothing_to_cancel_of_a_run_that_is_not_there_or_ended(
    queue: Queue,
) -> None:
    async def run(step: Step) -> StepOutcome:
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        assert not await runtime.cancel("nobody")
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        assert not await runtime.cancel("r")
        assert (await status_of(runtime, "r")).state is RunState.SUCCEEDED


@pytest.mark.parametrize("when", [After(3600), OnSignal("k"), OnSignal("k", 3600)], ids=repr)
async def test_a_run_that_sleeps_or_waits_ends_at_once_and_leaves_nothing(
    queue: Queue, mock_clock: MockClock, when: After | OnSignal
) -> None:
    async def run(step: Step) -> StepOutcome:
        return Continue(b"", when)

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(0)
        assert (await status_of(runtime, "r")).step_number == 1
        assert await runtime.cancel("r")
        assert (await status_of(runtime, "r")).state is RunState.CANCELLED
    assert (await queue.stats("workflow")).scheduled == 0
    assert set(await entries(queue, "workflow/signal/")) == set()
    # Nobody waits for it any more.
    assert await runtime.signal("k") is SignalOutcome.BUFFERED


async def test_a_run_that_waits_for_its_retry_ends_at_once(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def run(step: Step) -> StepOutcome:
        raise ValueError

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(0)
        assert (await status_of(runtime, "r")).state is RunState.SLEEPING
        assert await runtime.cancel("r")
        assert (await status_of(runtime, "r")).state is RunState.CANCELLED


OUTCOMES: dict[str, StepOutcome | Exception] = {
    "continues": Continue(b""),
    "waits": Continue(b"", OnSignal("k")),
    "succeeds": Succeed(b"result"),
    "raises": ValueError("interrupted"),
    "obeys": CancelRequested("job"),
}


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
async def test_a_running_step_is_asked_to_stop_and_its_outcome_does_not_count(
    queue: Queue, outcome: StepOutcome | Exception
) -> None:
    async def run(step: Step) -> StepOutcome:
        step.effects.kv_put("staged", b"")
        step.effects.enqueue(EnqueueRequest("mail", b""))
        await step.cancel_token.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(runner.ran))
        assert await runtime.cancel("r")
        (status,) = await finish(runtime, "r")
    assert (status.state, status.result) == (RunState.CANCELLED, None)
    assert len(runner.ran) == 1
    assert await queue.kv_get("staged") is None
    assert (await queue.stats("mail")).pending == 0
    assert set(await entries(queue, "workflow/signal/")) == set()


async def test_status_shows_that_a_run_is_being_cancelled(queue: Queue) -> None:
    gate = asyncio.Event()

    async def run(step: Step) -> StepOutcome:
        await gate.wait()
        return Continue(b"")

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(runner.ran))
        assert await runtime.cancel("r")
        assert (await status_of(runtime, "r")).state is RunState.CANCELLING
        # Again, and it is as well.
        assert await runtime.cancel("r")
        gate.set()
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.CANCELLED


async def test_a_request_survives_the_end_of_the_process(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=EAGER)

    async def hang(step: Step) -> StepOutcome:
        await asyncio.Event().wait()
        return Succeed()

    runner = Runs(hang)
    runtime = WorkflowRuntime(queue, runner)
    task = asyncio.create_task(runtime.run())
    await runtime.submit(RunSpec(b"", run_id="r"))
    await until(lambda: bool(runner.ran))
    assert await runtime.cancel("r")
    # The step never settles: its process is gone.
    await queue.close()
    with pytest.raises(Exception, match="closed"):
        await task
    queue = await open_queue(url)
    runtime = WorkflowRuntime(queue, Runs(never))
    assert (await status_of(runtime, "r")).state is RunState.CANCELLING
    async with runtime:
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.CANCELLED


async def test_a_request_that_was_not_yet_written_when_the_step_settled_counts(
    queue: Queue,
) -> None:
    """The token fires when the request is written; a settlement decided before must see it."""
    gate = asyncio.Event()

    async def run(step: Step) -> StepOutcome:
        await gate.wait()
        assert not step.cancel_token.cancelled
        step.effects.kv_put("staged", b"")
        return Continue(b"next")

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(runner.ran))
        held = hold_engine(queue, timeout=30)
        held.hold("write")
        cancelling = asyncio.create_task(runtime.cancel("r"))
        await held.reached("write")
        gate.set()
        await asyncio.sleep(0.01)
        held.release()
        assert await cancelling
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.CANCELLED
    assert len(runner.ran) == 1
    assert await queue.kv_get("staged") is None


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_request_at_any_moment_of_a_running_chain_ends_it(queue: Queue, turns: int) -> None:
    async def run(step: Step) -> StepOutcome:
        await asyncio.sleep(0)
        assert step.step_number < 10_000
        return Continue(b"")

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await runtime.cancel("r")
        (status,) = await finish(runtime, "r")
        assert status.state is RunState.CANCELLED
        ran = len(runner.ran)
        await asyncio.sleep(0.005)
        assert len(runner.ran) == ran
    stats = await queue.stats("workflow")
    assert (stats.pending, stats.claimed, stats.scheduled) == (0, 0, 0)


async def test_cancels_at_once_agree(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        await step.cancel_token.wait()
        return Succeed()

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(runner.ran))
        assert any(await asyncio.gather(*(runtime.cancel("r") for _ in range(5))))
        await finish(runtime, "r")
    await runtime.submit(RunSpec(b"", run_id="waits"))
    answers = await asyncio.gather(*(runtime.cancel("waits") for _ in range(5)))
    assert any(answers)
    assert (await status_of(runtime, "waits")).state is RunState.CANCELLED
    # Once ended, it was announced once.
    assert (await queue.stats("workflow")).pending == 0


async def test_an_operators_cancel_of_the_running_job_ends_the_run(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        await step.cancel_token.wait()
        return Succeed()

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(runner.ran))
        (job,) = (await queue.list_jobs("workflow", JobStatus.CLAIMED)).jobs
        await queue.cancel(job.id)
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.CANCELLED


async def test_a_run_whose_job_was_removed_by_hand_is_reported(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    await runtime.submit(RunSpec(b"", run_id="r"))
    (job,) = (await queue.list_jobs("workflow", JobStatus.PENDING)).jobs
    await queue.cancel(job.id)
    for call in (runtime.status, runtime.cancel):
        with pytest.raises(JobNotFound, match=job.id):
            await call("r")


async def test_the_cancellation_of_another_job_is_an_error_like_any_other(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        raise CancelRequested("another")

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=1))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.FAILED
    assert "'another'" in (status.reason or "")
