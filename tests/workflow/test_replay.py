"""Step-output replay: a step that has returned is not run again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taquba import EnqueueRequest, Queue, SettlementEffects, TaqubaError
from taquba._model import keys
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    After,
    Cancel,
    Continue,
    Fail,
    Immediate,
    OnSignal,
    RunSpec,
    RunState,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from taquba_workflow._replay import Output, decode_output, encode_output
from tests.workflow.crashing import die_at
from tests.workflow.support import EAGER, Runs, entries, finish, fresh_url, status_of

OUTCOMES: list[StepOutcome] = [
    Continue(b"x"),
    Continue(b"", Immediate()),
    Continue(b"x", After(1.5)),
    Continue(b"x", OnSignal("k")),
    Continue(b"x", OnSignal("k", 60.0)),
    Succeed(b"r"),
    Succeed(bytes(100_000)),
    Fail("reason"),
    Cancel("reason"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: repr(outcome)[:40])
def test_an_output_is_read_as_it_was_kept(outcome: StepOutcome, mock_clock: MockClock) -> None:
    now = mock_clock.now()
    full = EnqueueRequest(
        "q",
        b"p",
        run_at=now + timedelta(seconds=5),
        priority=3,
        max_attempts=4,
        dedup_key="d",
        headers={"a": "b"},
        job_id="id",
        kv_writes={"k": b"v"},
    )
    staged = SettlementEffects(
        enqueues=[full, EnqueueRequest("q", b"")], kv_writes={"k": b"v"}, kv_deletes=["gone"]
    )
    output = Output(outcome, staged, now, 1)
    assert decode_output(encode_output(output)) == output


def test_a_staged_delay_becomes_a_time(mock_clock: MockClock) -> None:
    staged = SettlementEffects(enqueues=[EnqueueRequest("q", b"", delay=90)])
    kept = decode_output(encode_output(Output(Succeed(), staged, mock_clock.now(), 1)))
    assert kept.staged.enqueues[0].run_at == mock_clock.now() + timedelta(seconds=90)


@pytest.mark.parametrize("replay", [True, False])
async def test_a_step_that_returned_before_the_crash_is_not_run_again(
    open_queue: OpenQueue, mock_clock: MockClock, replay: bool
) -> None:
    url = fresh_url()
    ran: list[int] = []

    async def run(step: Step) -> StepOutcome:
        if not step.step_number:
            ran.append(len(ran) + 1)
            step.effects.kv_put("staged", b"%d" % len(ran))
            step.effects.enqueue(EnqueueRequest("mail", b"", delay=100))
            # Attempts that leave no durable trace may not be counted.
            await step.memo.put("begun", b"")
        return Continue(b"", After(60))

    queue = await open_queue(url)
    runtime = WorkflowRuntime(queue, Runs(run), step_output_replay=replay)
    await runtime.submit(RunSpec(b"", run_id="r"))
    settles = keys.user(b"workflow/run/workflow/r")
    dying = die_at(queue, lambda ops: any(key == settles for key, _ in ops))
    returned = mock_clock.now()
    with pytest.raises(TaqubaError):
        await runtime.run()
    assert dying.died.is_set()
    await mock_clock.advance(20)
    queue = await open_queue(url)
    async with WorkflowRuntime(queue, Runs(run), step_output_replay=replay) as runtime:
        await mock_clock.advance(0)
        status = await status_of(runtime, "r")
        assert status.step_number == 1
        waits_from = returned if replay else returned + timedelta(seconds=20)
        assert status.starts_at == waits_from + timedelta(seconds=60)
        (mail,) = (await queue.list_jobs("mail", "scheduled")).jobs
        assert mail.run_at == waits_from + timedelta(seconds=100)
        assert ran == ([1] if replay else [1, 2])
        assert await queue.kv_get("staged") == (b"1" if replay else b"2")
        assert not [key for key in await entries(queue, "workflow/memo/") if "/0/r/" in key]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: repr(outcome)[:40])
async def test_replay_leaves_nothing_behind(
    queue: Queue, mock_clock: MockClock, outcome: StepOutcome
) -> None:
    async def run(step: Step) -> StepOutcome:
        return Succeed() if step.step_number else outcome

    async with WorkflowRuntime(queue, Runs(run), step_output_replay=True) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(120)
        await runtime.signal("k")
        await runtime.clear_signal("k")
        (status,) = await finish(runtime, "r")
    expected = {Fail: RunState.FAILED, Cancel: RunState.CANCELLED}
    assert status.state is expected.get(type(outcome), RunState.SUCCEEDED)
    assert await entries(queue, "workflow/memo/") == {}


async def test_a_failed_attempt_is_run_again(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)

    async def run(step: Step) -> StepOutcome:
        if step.attempts == 1:
            raise ValueError
        return Succeed(b"second")

    async with WorkflowRuntime(queue, Runs(run), step_output_replay=True) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.result == b"second"
