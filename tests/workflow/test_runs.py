"""Runs from their submission to their end."""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from taquba import (
    MAX_KV_VALUE_SIZE,
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    InvalidQueueName,
    JobStatus,
    KvValueTooLarge,
    PermanentFailure,
    Queue,
    QueueConfig,
    RetryAfter,
    Snooze,
    TaqubaError,
)
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    After,
    Cancel,
    Continue,
    Fail,
    InputMismatch,
    RunSpec,
    RunState,
    Step,
    StepEffects,
    StepError,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.crash.held_engine import hold_engine
from tests.workflow.support import EAGER, Runs, entries, finish, fresh_url, status_of, until
from tests.workflow.test_termination import Told


async def count_down(step: Step) -> StepOutcome:
    """Goes on until its payload is 0."""
    left = int(step.payload)
    return Continue(b"%d" % (left - 1)) if left else Succeed(b"done")


async def never(step: Step) -> StepOutcome:
    pytest.fail("this step is not to run")


# -- steps ------------------------------------------------------------------------------------


async def test_a_run_goes_from_step_to_step_to_its_result(
    queue: Queue, mock_clock: MockClock
) -> None:
    seen: list[Step] = []

    async def run(step: Step) -> StepOutcome:
        seen.append(step)
        return Succeed(step.payload + b"!") if step.step_number == 2 else Continue(step.payload * 2)

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        outcome = await runtime.submit(RunSpec(b"ab", run_id="r", headers={"tenant": "acme"}))
        assert outcome == ("r", True)
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED
    assert status.result == b"abababab!"
    assert status.reason is None
    assert status.step_number == 2
    assert status.submitted_at == status.ended_at == mock_clock.now()
    assert [(s.run_id, s.step_number, s.payload, s.attempts) for s in seen] == [
        ("r", 0, b"ab", 1),
        ("r", 1, b"abab", 1),
        ("r", 2, b"abababab", 1),
    ]
    assert all(step.headers == {"tenant": "acme"} for step in seen)
    assert all(step.signal is None for step in seen)
    assert len({step.job_id for step in seen}) == 3


async def test_a_drained_queue_holds_nothing_but_the_outcomes(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Runs(count_down)) as runtime:
        for n in range(3):
            await runtime.submit(RunSpec(b"3", run_id=f"r{n}"))
        await finish(runtime, "r0", "r1", "r2")
    stats = await queue.stats("workflow")
    assert (stats.pending, stats.scheduled, stats.claimed, stats.dead) == (0, 0, 0, 0)
    assert stats.done == 12
    kept = await entries(queue)
    assert [key for key in kept if key.startswith("workflow/run/")] == [
        f"workflow/run/workflow/r{n}" for n in range(3)
    ]
    assert all(key.startswith(("workflow/run/", "workflow/expiry/")) for key in kept)


async def test_each_step_is_a_job_with_its_dedup_key_and_the_runs_priority(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def run(step: Step) -> StepOutcome:
        return Continue(b"y", After(60))

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        later = queue.clock.now() + timedelta(hours=1)
        await runtime.submit(RunSpec(b"x", run_id="later", priority=7, run_at=later))
        (first,) = (await queue.list_jobs("workflow", "scheduled")).jobs
        assert (first.dedup_key, first.priority, first.payload) == ("run:later:0", 7, b"x")
        assert first.run_at == later
        await runtime.submit(RunSpec(b"x", run_id="now"))
        await mock_clock.advance(0)
        (second, _) = (await queue.list_jobs("workflow", "scheduled")).jobs
        assert (second.dedup_key, second.priority, second.payload) == ("run:now:1", 1000, b"y")


async def test_a_delay_between_steps_holds_no_worker(queue: Queue, mock_clock: MockClock) -> None:
    started: list[datetime] = []

    async def run(step: Step) -> StepOutcome:
        started.append(mock_clock.now())
        return Continue(b"", After(timedelta(days=1))) if len(started) < 3 else Succeed()

    start = mock_clock.now()
    async with WorkflowRuntime(queue, Runs(run), max_concurrent_steps=1) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(3600)
        status = await status_of(runtime, "r")
        assert status.state is RunState.SLEEPING
        assert status.starts_at == start + timedelta(days=1)
        assert status.step_number == 1
        assert (await queue.stats("workflow")).claimed == 0
        await mock_clock.advance(timedelta(days=2))
        assert (await status_of(runtime, "r")).state is RunState.SUCCEEDED
    assert started == [start + timedelta(days=n) for n in range(3)]


async def test_steps_stage_jobs_and_entries_that_land_with_their_settlement(queue: Queue) -> None:
    await queue.kv_put("old", b"1")

    async def run(step: Step) -> StepOutcome:
        step.effects.kv_put(f"step/{step.step_number}", b"1")
        step.effects.enqueue(EnqueueRequest("mail", b"%d" % step.step_number))
        if step.step_number == 0:
            step.effects.kv_put("gone", b"1")
            step.effects.kv_delete("gone")
            return Continue(b"")
        step.effects.kv_delete("old")
        return Succeed() if step.run_id == "good" else Fail("enough")

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="good"))
        await finish(runtime, "good")
        assert set(await entries(queue, "step/")) == {"step/0", "step/1"}
        assert await queue.kv_get("gone") is None
        assert await queue.kv_get("old") is None
        assert [job.payload for job in (await queue.list_jobs("mail", "pending")).jobs] == [
            b"0",
            b"1",
        ]
        # An outcome is an outcome: a run that says it failed has its effects, too.
        await runtime.submit(RunSpec(b"", run_id="bad"))
        await finish(runtime, "bad")
        assert (await queue.stats("mail")).pending == 4


# -- ends -------------------------------------------------------------------------------------


async def test_a_step_may_fail_or_cancel_its_run(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        step.effects.kv_put(step.run_id, b"staged")
        return Fail("no stock") if step.run_id == "fails" else Cancel("not wanted")

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        for run_id in ("fails", "cancels"):
            await runtime.submit(RunSpec(b"", run_id=run_id))
        failed, cancelled = await finish(runtime, "fails", "cancels")
    assert (failed.state, failed.reason) == (RunState.FAILED, "no stock")
    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "not wanted")
    assert (failed.result, cancelled.result) == (None, None)
    assert await queue.kv_get("fails") == b"staged"
    assert await queue.kv_get("cancels") is None
    # These ends are what the code wanted: nothing is left for somebody to look at.
    assert (await queue.stats("workflow")).dead == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StepError.permanent("card refused"), "card refused"),
        (PermanentFailure("card refused"), "card refused"),
    ],
    ids=repr,
)
async def test_a_permanent_error_ends_the_run_at_once(
    queue: Queue, error: Exception, reason: str
) -> None:
    async def run(step: Step) -> StepOutcome:
        step.effects.kv_put("staged", b"")
        raise error

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert (status.state, status.reason) == (RunState.FAILED, reason)
    assert runner.ran == [("r", 0, 1)]
    assert await queue.kv_get("staged") is None
    (dead,) = (await queue.dead_jobs("workflow")).jobs
    assert dead.last_error == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StepError.transient("try later"), "try later"),
        (ValueError("oops"), "ValueError: oops"),
        (KeyError(), "KeyError"),
        (RetryAfter(1, "busy"), "busy"),
    ],
    ids=repr,
)
async def test_other_errors_are_tried_again_until_the_attempts_are_used_up(
    open_queue: OpenQueue, error: Exception, reason: str, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_jitter=0))

    async def run(step: Step) -> StepOutcome:
        step.effects.kv_put("staged", b"")
        raise error

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=2))
        await mock_clock.advance(0)
        status = await status_of(runtime, "r")
        assert (status.state, status.attempts) == (RunState.SLEEPING, 1)
        assert status.last_error is not None
        await mock_clock.advance(1)
        (status,) = await finish(runtime, "r")
    assert (status.state, status.reason) == (RunState.FAILED, reason)
    assert runner.ran == [("r", 0, 1), ("r", 0, 2)]
    assert await queue.kv_get("staged") is None


async def test_the_queues_attempts_count_where_a_run_has_none_of_its_own(
    open_queue: OpenQueue,
) -> None:
    settings = QueueConfig(max_attempts=5, retry_backoff_base=0, retry_jitter=0)
    queue = await open_queue(queue_configs={"workflow": settings})

    async def run(step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"")
        raise ValueError

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
    assert runner.ran == [("r", 0, 1), *(("r", 1, n) for n in range(1, 6))]


async def test_a_step_that_puts_itself_off_spends_no_attempt(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def run(step: Step) -> StepOutcome:
        if mock_clock.now() < ready:
            raise Snooze(60)
        return Succeed()

    ready = mock_clock.now() + timedelta(hours=1)
    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=1))
        await mock_clock.advance(3600)
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED
    assert len(runner.ran) == 61


async def test_returning_something_else_ends_the_run_with_what_was_expected(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        return None  # type: ignore[return-value]

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.FAILED
    assert "must return Continue, Succeed, Fail or Cancel, not NoneType" in (status.reason or "")


async def test_a_result_may_have_any_size(queue: Queue) -> None:
    result = random.Random(1).randbytes(2_000_000)
    told = Told()

    async def run(step: Step) -> StepOutcome:
        return Succeed(result[: int(step.payload)])

    async with WorkflowRuntime(queue, Runs(run), hook=told) as runtime:
        sizes = [0, 65_536, 65_537, len(result)]
        for size in sizes:
            await runtime.submit(RunSpec(b"%d" % size, run_id=f"r{size}"))
        found = await finish(runtime, *(f"r{size}" for size in sizes))
        await until(lambda: len(told.outcomes) == 4)
    assert [status.result for status in found] == [result[:size] for size in sizes]
    assert {outcome.result for outcome in told.outcomes} == {result[:size] for size in sizes}


async def test_effects_that_the_queue_refuses_count_as_a_failed_attempt(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=EAGER)
    await queue.enqueue("mail", b"", job_id="taken")

    async def run(step: Step) -> StepOutcome:
        step.effects.enqueue(EnqueueRequest("mail", b"", job_id="taken"))
        return Succeed()

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=2))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.FAILED
    assert "'taken' already exists" in (status.reason or "")
    assert runner.ran == [("r", 0, 1), ("r", 0, 2)]


@pytest.mark.parametrize("message", ["x" * 10**6, "lone \ud800 surrogate"], ids=len)
async def test_any_message_can_be_a_reason(
    queue: Queue, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    # Test processes report what was logged to each other as UTF-8.
    caplog.set_level(logging.CRITICAL)

    async def run(step: Step) -> StepOutcome:
        raise StepError.permanent(message)

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.FAILED
    assert (status.reason or "").startswith(message[:5])
    assert len(status.reason or "") < 5000


# -- submitting ---------------------------------------------------------------------------------


async def test_submitting_the_same_again_changes_nothing_at_any_time(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    spec = RunSpec(b"2", run_id="r", kv_writes={"note": b"first"})
    other = RunSpec(b"2", run_id="r", kv_writes={"note": b"second"})
    queue = await open_queue(url)
    runtime = WorkflowRuntime(queue, Runs(never))
    assert await runtime.submit(spec) == ("r", True)
    assert await runtime.submit(other) == ("r", False)
    await queue.close()
    # Another process life.
    queue = await open_queue(url)
    async with WorkflowRuntime(queue, Runs(count_down)) as runtime:
        assert await runtime.submit(other) == ("r", False)
        await finish(runtime, "r")
        assert await runtime.submit(other) == ("r", False)
    await queue.close()
    queue = await open_queue(url)
    runtime = WorkflowRuntime(queue, Runs(never))
    assert await runtime.submit(other) == ("r", False)
    assert await queue.kv_get("note") == b"first"
    assert (await queue.stats("workflow")).pending == 0


async def test_the_same_id_with_another_input_is_refused_at_any_time(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Runs(count_down)) as runtime:
        await runtime.submit(RunSpec(b"1", run_id="r"))
        with pytest.raises(InputMismatch, match=r"'r'.*another id") as refusal:
            await runtime.submit(RunSpec(b"2", run_id="r", kv_writes={"note": b""}))
        assert refusal.value.permanent
        await finish(runtime, "r")
        with pytest.raises(InputMismatch):
            await runtime.submit(RunSpec(b"2", run_id="r"))
    assert await queue.kv_get("note") is None


async def test_of_submissions_at_once_one_is_new(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    inputs = [b"a", b"b", b"a", b"a", b"b"]
    outcomes = await asyncio.gather(
        *(runtime.submit(RunSpec(input, run_id="r")) for input in inputs), return_exceptions=True
    )
    assert [outcome for outcome in outcomes if not isinstance(outcome, InputMismatch)] == [
        ("r", True),
        ("r", False),
        ("r", False),
    ]
    assert (await queue.stats("workflow")).pending == 1


async def test_a_submission_goes_on_when_its_caller_is_cancelled(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    first = asyncio.create_task(runtime.submit(RunSpec(b"a", run_id="r")))
    await asyncio.sleep(0)
    first.cancel()
    assert await runtime.submit(RunSpec(b"a", run_id="r")) == ("r", False)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_distinct_runs_share_commits(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    held = hold_engine(queue)
    await asyncio.gather(*(runtime.submit(RunSpec(b"", run_id=f"r{n}")) for n in range(100)))
    assert held.calls["write"] <= 5
    assert (await queue.stats("workflow")).pending == 100


async def test_a_run_without_an_id_gets_one(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    outcomes = [await runtime.submit(RunSpec(b"")) for _ in range(3)]
    assert all(outcome.new for outcome in outcomes)
    assert len({outcome.run_id for outcome in outcomes}) == 3
    assert (await status_of(runtime, outcomes[0].run_id)).state is RunState.PENDING


# -- looking ------------------------------------------------------------------------------------


async def test_the_states_of_a_run(queue: Queue, mock_clock: MockClock) -> None:
    gate = asyncio.Event()

    async def run(step: Step) -> StepOutcome:
        await gate.wait()
        return Succeed()

    runner = Runs(run)
    runtime = WorkflowRuntime(queue, runner)
    assert await runtime.status("r") is None
    assert await runtime.wait_for_completion("r", 5) is None
    start = mock_clock.now() + timedelta(seconds=60)
    await runtime.submit(RunSpec(b"", run_id="r", run_at=start))
    status = await status_of(runtime, "r")
    assert (status.state, status.starts_at, status.attempts) == (RunState.SLEEPING, start, 0)
    await mock_clock.advance(60)
    assert (await status_of(runtime, "r")).state is RunState.PENDING
    async with runtime:
        await until(lambda: bool(runner.ran))
        status = await status_of(runtime, "r")
        assert (status.state, status.attempts, status.starts_at) == (RunState.RUNNING, 1, None)
        waiting = asyncio.create_task(runtime.wait_for_completion("r", 10))
        await asyncio.sleep(0)
        await mock_clock.advance(10)
        timed_out = await waiting
        assert timed_out is not None
        assert timed_out.state is RunState.RUNNING
        gate.set()
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED
    assert status.state.ended


# -- running ------------------------------------------------------------------------------------


async def test_steps_run_side_by_side_up_to_the_bound(queue: Queue) -> None:
    running = 0
    most = 0
    three = asyncio.Barrier(3)

    async def run(step: Step) -> StepOutcome:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await three.wait()
        running -= 1
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run), max_concurrent_steps=3) as runtime:
        runs = [(await runtime.submit(RunSpec(b""))).run_id for _ in range(21)]
        await finish(runtime, *runs)
    assert most == 3


async def test_two_workflows_share_a_queue_by_name(queue: Queue) -> None:
    runners = {name: Runs(count_down) for name in ("left", "right")}
    async with (
        WorkflowRuntime(queue, runners["left"], queue_name="left") as left,
        WorkflowRuntime(queue, runners["right"], queue_name="right") as right,
    ):
        await left.submit(RunSpec(b"1", run_id="l"))
        await right.submit(RunSpec(b"2", run_id="r"))
        await finish(left, "l")
        await finish(right, "r")
    assert runners["left"].ran == [("l", 0, 1), ("l", 1, 1)]
    assert runners["right"].ran == [("r", 0, 1), ("r", 1, 1), ("r", 2, 1)]


async def test_leaving_waits_for_running_steps(queue: Queue) -> None:
    gate = asyncio.Event()

    async def run(step: Step) -> StepOutcome:
        gate.set()
        await asyncio.sleep(0.01)
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await gate.wait()
    assert (await status_of(runtime, "r")).state is RunState.SUCCEEDED


async def test_a_cancelled_runtime_gives_its_steps_back_unspent(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        await asyncio.Event().wait()
        return Succeed()

    runner = Runs(run)
    runtime = WorkflowRuntime(queue, runner)
    task = asyncio.create_task(runtime.run())
    await runtime.submit(RunSpec(b"", run_id="r"))
    await until(lambda: bool(runner.ran))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    status = await status_of(runtime, "r")
    assert (status.state, status.attempts) == (RunState.PENDING, 0)
    # And another may take them up.
    async with WorkflowRuntime(queue, Runs(count_down_or_done)) as runtime:
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED


async def count_down_or_done(step: Step) -> StepOutcome:
    return Succeed()


async def test_workflows_of_other_names_share_no_run_ids_signals_or_turns(queue: Queue) -> None:
    left, right = (WorkflowRuntime(queue, Runs(never), queue_name=name) for name in ("a", "a/b"))
    assert await left.submit(RunSpec(b"left", run_id="r")) == ("r", True)
    assert await right.submit(RunSpec(b"right", run_id="r")) == ("r", True)
    await left.signal("k")
    assert not await right.clear_signal("k")
    assert await left.cancel("r")
    assert (await status_of(right, "r")).state is RunState.PENDING


async def test_runtimes_of_one_queue_and_name_take_turns(queue: Queue) -> None:
    runtimes = [WorkflowRuntime(queue, Runs(never)) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(runtime.submit(RunSpec(b"", run_id="r")) for runtime in runtimes)
    )
    assert [outcome.new for outcome in outcomes] == [True, False, False, False, False]


async def test_a_runtime_is_entered_once_at_a_time(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Runs(never)) as runtime:
        with pytest.raises(InvalidArgument, match="already running"):
            await runtime.__aenter__()
    async with runtime:
        pass


async def test_the_end_of_the_store_ends_the_runtime(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, Runs(never))
    task = asyncio.create_task(runtime.run())
    await asyncio.sleep(0)
    await queue.close()
    with pytest.raises(TaqubaError, match="closed"):
        await task


async def test_somebody_elses_job_becomes_a_dead_letter_that_says_why(queue: Queue) -> None:
    job = await queue.enqueue("workflow", b"")
    async with WorkflowRuntime(queue, Runs(never)):
        await queue.wait_for_completion(job.id, 10)
    dead = await queue.get_job(job.id)
    assert dead is not None
    assert dead.status is JobStatus.DEAD
    assert "not a step of a run" in (dead.last_error or "")
    assert "submit()" in (dead.last_error or "")


async def test_requeueing_the_dead_step_of_a_run_that_ended_does_not_run_it(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        raise StepError.permanent("no")

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (before,) = await finish(runtime, "r")
        (dead,) = (await queue.dead_jobs("workflow")).jobs
        await queue.requeue_dead(dead.id)
        await queue.wait_for_completion(dead.id, 10)
        assert await runtime.status("r") == before
    again = await queue.get_job(dead.id)
    assert again is not None
    assert again.status is JobStatus.DEAD
    assert "'r' has ended" in (again.last_error or "")
    assert len(runner.ran) == 1


# -- bad input ----------------------------------------------------------------------------------


BAD_SPECS: dict[str, tuple[dict[str, Any], type[TaqubaError], str]] = {
    "input of str": ({"input": "x"}, InvalidArgumentType, "input must be bytes, not str"),
    "run id with a slash": ({"run_id": "a/b"}, InvalidJobId, "'a/b'"),
    "empty run id": ({"run_id": ""}, InvalidJobId, "''"),
    "long run id": ({"run_id": "x" * 129}, InvalidJobId, "xxx"),
    "reserved header": (
        {"headers": {"workflow.x": "1"}},
        InvalidArgument,
        "workflow.x.*reserved",
    ),
    "header of int": ({"headers": {"a": 1}}, InvalidArgumentType, "'a': 1"),
    "reserved entry": (
        {"kv_writes": {"workflow/x": b""}},
        InvalidArgument,
        "workflow/x.*reserved",
    ),
    "reserved bytes": ({"kv_writes": {b"workflow/x": b""}}, InvalidArgument, "reserved"),
    "no attempts": ({"max_attempts": 0}, InvalidArgument, "max_attempts.*0"),
    "priority": ({"priority": -1}, InvalidArgument, "priority.*-1"),
    "naive time": ({"run_at": datetime(2030, 1, 1)}, InvalidArgument, "naive"),  # noqa: DTZ001
}


@pytest.mark.parametrize("case", BAD_SPECS.values(), ids=BAD_SPECS)
def test_bad_specs_are_refused_when_they_are_made(
    case: tuple[dict[str, Any], type[TaqubaError], str],
) -> None:
    options, kind, message = case
    with pytest.raises(kind, match=message):
        RunSpec(**{"input": b"", **options})


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Continue("x"), InvalidArgumentType, "payload must be bytes, not str"),  # type: ignore[arg-type]
        (lambda: Continue(b"", 5), InvalidArgumentType, "when must be an Immediate or After"),  # type: ignore[arg-type]
        (lambda: After(-1), InvalidArgument, "delay.*-1"),
        (lambda: After("1"), InvalidArgumentType, "delay.*'1'"),  # type: ignore[arg-type]
        (lambda: After(float("nan")), InvalidArgument, "delay.*nan"),
        (lambda: Succeed("x"), InvalidArgumentType, "result must be bytes, not str"),  # type: ignore[arg-type]
        (lambda: Fail(b"x"), InvalidArgumentType, "reason must be a str"),  # type: ignore[arg-type]
        (lambda: Cancel(5), InvalidArgumentType, "reason must be a str"),  # type: ignore[arg-type]
    ],
)
def test_bad_outcomes_are_refused_when_they_are_made(
    make: Any, kind: type[TaqubaError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


async def test_bad_arguments_of_the_runtime_are_refused(queue: Queue) -> None:
    runner = Runs(never)
    with pytest.raises(InvalidArgumentType, match="store must be a Store, not str"):
        WorkflowRuntime("./data", runner)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentType, match=r"runner must be an object with.*run_step"):
        WorkflowRuntime(queue, never)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentType, match=r"hook must be an object with.*on_termination"):
        WorkflowRuntime(queue, runner, hook=never)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"max_concurrent_steps.*0"):
        WorkflowRuntime(queue, runner, max_concurrent_steps=0)
    for name in ("", "x" * 250):
        with pytest.raises(InvalidQueueName):
            WorkflowRuntime(queue, runner, queue_name=name)
    with pytest.raises(InvalidArgument, match=r"memo_retention.*-1"):
        WorkflowRuntime(queue, runner, memo_retention=-1)
    runtime = WorkflowRuntime(queue, runner)
    with pytest.raises(InvalidArgumentType, match="spec must be a RunSpec, not bytes"):
        await runtime.submit(b"x")  # type: ignore[arg-type]
    for call in (runtime.status, runtime.cancel):
        with pytest.raises(InvalidJobId, match="'a b'"):
            await call("a b")


def test_bad_effects_are_refused_when_they_are_staged() -> None:
    effects = StepEffects()
    with pytest.raises(InvalidArgument, match="'workflow/x' is reserved"):
        effects.kv_put("workflow/x", b"")
    with pytest.raises(InvalidArgument, match="reserved"):
        effects.kv_delete(b"workflow/x")
    with pytest.raises(InvalidArgument, match=r"'workflow\.x' is reserved"):
        effects.enqueue(EnqueueRequest("q", b"", headers={"workflow.x": ""}))
    with pytest.raises(InvalidArgument, match="reserved"):
        effects.enqueue(EnqueueRequest("q", b"", kv_writes={"workflow/x": b""}))
    with pytest.raises(KvValueTooLarge):
        effects.kv_put("x", bytes(MAX_KV_VALUE_SIZE + 1))
    with pytest.raises(InvalidArgumentType, match="request must be an EnqueueRequest"):
        effects.enqueue(b"")  # type: ignore[arg-type]


def test_a_step_error_says_whether_it_is_permanent() -> None:
    permanent, transient = StepError.permanent("a"), StepError.transient("b")
    assert (permanent.permanent, permanent.transient) == (True, False)
    assert (transient.permanent, transient.transient) == (False, True)
    assert isinstance(permanent, TaqubaError)
    again = pickle.loads(pickle.dumps(permanent))
    assert (str(again), again.permanent) == ("a", True)
