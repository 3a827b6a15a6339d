"""Runs whose process ends: at every commit, and while nobody is there to end the run."""

from __future__ import annotations

import pytest

from taquba import Queue, TaqubaError
from taquba._model import keys
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    After,
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    Step,
    StepError,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.workflow.audit import MARKS, TOLD, Told, audit, jobs
from tests.workflow.audit import mark as staged_mark
from tests.workflow.crashing import DyingEngine, after_writes, die_at
from tests.workflow.support import EAGER, Runs, entries, finish, fresh_url, status_of


async def all_kinds(step: Step) -> StepOutcome:
    """Every way to go on, one after the other."""
    if await step.memo.get("begun") is None:
        await step.memo.put("begun", b"")
    staged_mark(step)
    match step.step_number:
        case 0:
            return Continue(b"1")
        case 1:
            return Continue(b"2", After(10))
        case 2:
            return Continue(b"3", OnSignal("early", 3600))
        case 3:
            assert step.signal == b"early"
            return Continue(b"4", OnSignal("late"))
        case 4:
            assert step.signal == b"late"
            return Continue(b"5", OnSignal("never", 10))
        case 5:
            assert step.signal is None
            return Succeed(b"result")
        case _:
            raise AssertionError(step.step_number)


async def wait_for_cancel(step: Step) -> StepOutcome:
    staged_mark(step)
    if step.step_number == 0:
        return Continue(b"")
    return Continue(b"", OnSignal("cancelled"))


async def fail(step: Step) -> StepOutcome:
    if step.step_number == 0:
        staged_mark(step)
        return Continue(b"")
    raise StepError.permanent("no")


FUNCTIONS = {"kinds": all_kinds, "cancels": wait_for_cancel, "fails": fail}


async def dispatch(step: Step) -> StepOutcome:
    return await FUNCTIONS[step.run_id](step)


async def drive(queue: Queue, clock: MockClock, *, replay: bool) -> None:
    """Whatever was done already, do the rest."""
    runtime = WorkflowRuntime(queue, Runs(dispatch), hook=Told(), step_output_replay=replay)
    # An external caller that repeats what it got no answer for.
    if await runtime.status("kinds") is None:
        await runtime.signal("early", b"early")
    async with runtime:
        for run_id in FUNCTIONS:
            await runtime.submit(RunSpec(b"0", run_id=run_id))
        await clock.advance(10)
        if (await status_of(runtime, "kinds")).signal_keys == ("late",):
            await runtime.signal("late", b"late")
        await clock.advance(10)
        await runtime.cancel("cancels")
        kinds, cancelled, failed = await finish(runtime, *FUNCTIONS)
        assert (kinds.state, kinds.result) == (RunState.SUCCEEDED, b"result")
        assert cancelled.state is RunState.CANCELLED
        assert (failed.state, failed.reason) == (RunState.FAILED, "no")
        await clock.advance(0)


@pytest.mark.parametrize("replay", [False, True])
async def test_from_every_prefix_of_its_commits_a_run_goes_on_to_the_same_end(
    open_queue: OpenQueue, mock_clock: MockClock, replay: bool
) -> None:
    prefixes = 0
    while True:
        url = fresh_url()
        old = await open_queue(url, default_config=EAGER)
        dying = die_at(old, after_writes(prefixes))
        try:
            await drive(old, mock_clock, replay=replay)
        except TaqubaError:
            assert dying.died.is_set()
        queue = await open_queue(url, default_config=EAGER, take_over=True)
        # The first to look: nothing has run since the end of the process.
        await audit(queue)
        await drive(queue, mock_clock, replay=replay)
        await audit(queue)
        assert len(await jobs(queue, TOLD)) == 3
        assert len(await jobs(queue, MARKS)) == 6 + 2 + 1
        assert await entries(queue, "workflow/signal/") == {}
        await queue.close()
        await old.close()
        if not dying.died.is_set():
            break
        prefixes += 1
    # Each of the 13 transitions, and more, had its own end.
    assert prefixes > 20


# -- nobody there to end the run ----------------------------------------------------------------


async def test_a_run_whose_last_attempt_dies_with_its_process_ends_properly(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=EAGER)
    dying: list[DyingEngine] = []

    async def die(step: Step) -> StepOutcome:
        step.effects.kv_put("staged", b"")
        # Durable, and with it that the attempt has begun.
        await step.memo.put("begun", b"")
        dying.append(die_at(queue, lambda ops: True))
        return Succeed()

    runner = Runs(die)
    runtime = WorkflowRuntime(queue, runner, hook=Told())
    await runtime.submit(RunSpec(b"", run_id="r", max_attempts=2))
    # The first attempt does not count: nothing is known yet to have run alone.
    for attempt in (0, 1, 2):
        with pytest.raises(TaqubaError):
            await runtime.run()
        assert dying[-1].died.is_set()
        queue = await open_queue(url, default_config=EAGER)
        runtime = WorkflowRuntime(queue, runner, hook=Told())
        assert (await status_of(runtime, "r")).attempts == attempt
    # The attempts are used up, and no handler runs: the run has not ended yet.
    assert (await status_of(runtime, "r")).state is RunState.PENDING
    async with runtime:
        (status,) = await finish(runtime, "r")
        await mock_clock.advance(0)
    assert status.state is RunState.FAILED
    assert status.reason == "no attempt out of 2 ended: the owner process ended"
    assert len(runner.ran) == 3
    assert await queue.kv_get("staged") is None
    assert [job.headers["run"] for job in await jobs(queue, TOLD)] == ["r"]
    assert list(await entries(queue, "workflow/expiry/")) != []


async def test_a_run_whose_last_lease_runs_out_ends_properly(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def hang(step: Step) -> StepOutcome:
        # Past the lease in one step, before a renewal is due.
        mock_clock._now += 30_000
        await queue.reap_now()
        return Succeed(b"too late")

    runner = Runs(hang)
    async with WorkflowRuntime(queue, runner, hook=Told()) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=1))
        (status,) = await finish(runtime, "r")
        await mock_clock.advance(0)
    assert (status.state, status.result) == (RunState.FAILED, None)
    assert status.reason == "no attempt out of 1 ended: the lease expired"
    assert runner.ran == [("r", 0, 1)]
    assert [job.headers["run"] for job in await jobs(queue, TOLD)] == ["r"]


async def test_the_end_of_the_process_in_the_commit_that_ends_such_a_run_is_no_end(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """However often the process dies while it ends the run, the run ends once."""
    url = fresh_url()
    queue = await open_queue(url, default_config=EAGER)

    async def die(step: Step) -> StepOutcome:
        await step.memo.put("begun", b"")
        die_at(queue, lambda ops: True)
        return Succeed()

    runner = Runs(die)
    runtime = WorkflowRuntime(queue, runner, hook=Told())
    await runtime.submit(RunSpec(b"", run_id="r", max_attempts=1))
    with pytest.raises(TaqubaError):
        await runtime.run()
    queue = await open_queue(url, default_config=EAGER)
    with pytest.raises(TaqubaError):
        await WorkflowRuntime(queue, runner, hook=Told()).run()
    row = keys.user(b"workflow/run/workflow/r")
    for _ in range(3):
        queue = await open_queue(url, default_config=EAGER)
        dying = die_at(queue, lambda ops: any(key == row for key, _ in ops))
        with pytest.raises(TaqubaError):
            await WorkflowRuntime(queue, runner, hook=Told()).run()
        assert dying.died.is_set()
    queue = await open_queue(url, default_config=EAGER)
    async with WorkflowRuntime(queue, runner, hook=Told()) as runtime:
        (status,) = await finish(runtime, "r")
        await mock_clock.advance(0)
    assert status.state is RunState.FAILED
    assert [job.headers["run"] for job in await jobs(queue, TOLD)] == ["r"]
    assert len(runner.ran) == 2
