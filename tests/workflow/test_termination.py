"""The terminal hook: a job of its own, made by the commit that ends the run."""

from __future__ import annotations

import logging

import pytest

from taquba import EnqueueRequest, JobStatus, Queue, QueueConfig
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    Cancel,
    Continue,
    Fail,
    RunOutcome,
    RunSpec,
    RunState,
    Step,
    StepError,
    StepOutcome,
    Succeed,
    TerminalEffects,
    TerminalHook,
    WorkflowRuntime,
)
from tests.workflow.support import EAGER, Runs, finish, fresh_url, until

HOOK_QUEUE = "workflow.termination"


class Told(TerminalHook):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[RunOutcome] = []

    async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
        self.outcomes.append(outcome)


async def end_as_told(step: Step) -> StepOutcome:
    match step.payload:
        case b"succeed":
            return Continue(b"result") if step.step_number == 0 else Succeed(b"never")
        case b"fail":
            return Fail("no stöck")
        case b"cancel":
            return Cancel("not wanted")
        case b"break":
            raise StepError.permanent("broken")
        case result:
            return Succeed(result)


async def test_the_hook_is_told_of_every_end(queue: Queue, mock_clock: MockClock) -> None:
    hook = Told()
    async with WorkflowRuntime(queue, Runs(end_as_told), hook=hook) as runtime:
        for run_id in ("succeed", "fail", "cancel", "break"):
            spec = RunSpec(run_id.encode(), run_id=run_id, headers={"for": run_id})
            await runtime.submit(spec)
        await finish(runtime, "succeed", "fail", "cancel", "break")
        await until(lambda: len(hook.outcomes) == 4)
    told = {outcome.run_id: outcome for outcome in hook.outcomes}
    assert told["succeed"] == RunOutcome(
        run_id="succeed",
        state=RunState.SUCCEEDED,
        step_number=1,
        result=b"result",
        reason=None,
        headers={"for": "succeed"},
        ended_at=mock_clock.now(),
    )
    assert [
        (o.state, o.reason, o.result) for o in (told["fail"], told["cancel"], told["break"])
    ] == [
        (RunState.FAILED, "no stöck", None),
        (RunState.CANCELLED, "not wanted", None),
        (RunState.FAILED, "broken", None),
    ]
    assert (await queue.stats(HOOK_QUEUE)).done == 4


async def test_a_run_that_is_cancelled_while_it_waits_for_a_worker_is_told_too(
    queue: Queue,
) -> None:
    hook = Told()
    runtime = WorkflowRuntime(queue, Runs(end_as_told), hook=hook)
    await runtime.submit(RunSpec(b"", run_id="r", headers={"for": "me"}))
    assert await runtime.cancel("r")
    async with runtime:
        await until(lambda: bool(hook.outcomes))
    (outcome,) = hook.outcomes
    assert (outcome.run_id, outcome.state, outcome.headers) == (
        "r",
        RunState.CANCELLED,
        {"for": "me"},
    )


async def test_the_hooks_effects_land_with_its_own_end(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    attempts = 0

    class Hook(TerminalHook):
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            nonlocal attempts
            attempts += 1
            effects.kv_put(f"told/{attempts}", outcome.run_id.encode())
            effects.enqueue(EnqueueRequest("mail", b""))
            if attempts == 1:
                raise ConnectionError

    async with WorkflowRuntime(queue, Runs(end_as_told), hook=Hook()) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: attempts == 2)
    assert await queue.kv_get("told/1") is None
    assert await queue.kv_get("told/2") == b"r"
    assert (await queue.stats("mail")).pending == 1


async def test_a_hook_sees_only_the_ends_that_it_observes(queue: Queue) -> None:
    class Failures(Told):
        def observes(self, outcome: RunOutcome) -> bool:
            return outcome.state is RunState.FAILED

    hook = Failures()
    async with WorkflowRuntime(queue, Runs(end_as_told), hook=hook) as runtime:
        for run_id in ("succeed", "fail"):
            await runtime.submit(RunSpec(run_id.encode(), run_id=run_id))
        await finish(runtime, "succeed", "fail")
        await until(lambda: bool(hook.outcomes))
    assert [outcome.run_id for outcome in hook.outcomes] == ["fail"]
    assert (await queue.stats(HOOK_QUEUE)).done == 1


async def test_a_hook_without_observes_sees_all_and_one_that_breaks_hinders_no_end(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain:
        def __init__(self) -> None:
            self.told: list[str] = []

        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            self.told.append(outcome.run_id)

    class Broken(Plain):
        def observes(self, outcome: RunOutcome) -> bool:
            raise ZeroDivisionError

    for hook in (Plain(), Broken()):
        run_id = type(hook).__name__
        with caplog.at_level(logging.ERROR):
            async with WorkflowRuntime(
                queue,
                Runs(end_as_told),
                hook=hook,  # type: ignore[arg-type]
            ) as runtime:
                await runtime.submit(RunSpec(b"", run_id=run_id))
                (status,) = await finish(runtime, run_id)
                await until(lambda hook=hook: bool(hook.told))  # type: ignore[misc]
        assert status.state is RunState.SUCCEEDED
    assert "observes() of the terminal hook failed for run 'Broken'" in caplog.text


async def test_a_notification_waits_for_a_process_with_the_hook(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)

    class NotHere(TerminalHook):
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            raise ConnectionError

    async with WorkflowRuntime(queue, Runs(end_as_told), hook=NotHere()) as runtime:
        await runtime.submit(RunSpec(b"x", run_id="r"))
        await finish(runtime, "r")
    await queue.close()
    queue = await open_queue(url, queue_configs={HOOK_QUEUE: QueueConfig(max_attempts=9)})
    hook = Told()
    async with WorkflowRuntime(queue, Runs(end_as_told), hook=hook):
        await mock_clock.advance(60)
        await until(lambda: bool(hook.outcomes))
    assert hook.outcomes[0].result == b"x"


async def test_somebody_elses_job_in_the_hooks_queue_becomes_a_dead_letter(queue: Queue) -> None:
    job = await queue.enqueue(HOOK_QUEUE, b"")
    async with WorkflowRuntime(queue, Runs(end_as_told), hook=Told()):
        await queue.wait_for_completion(job.id, 10)
    dead = await queue.get_job(job.id)
    assert dead is not None
    assert dead.status is JobStatus.DEAD
    assert "not a notification of a run's end" in (dead.last_error or "")
