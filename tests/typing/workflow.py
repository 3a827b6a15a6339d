"""What the type checkers infer for runs, steps and outcomes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

from taquba import CancelToken, EnqueueRequest, LeaseHandle, Queue
from taquba_workflow import (
    After,
    Cancel,
    Continue,
    Fail,
    Immediate,
    Memo,
    OnSignal,
    RunOutcome,
    RunSpec,
    RunState,
    RunStatus,
    SignalOutcome,
    Step,
    StepEffects,
    StepError,
    StepOutcome,
    SubmitOutcome,
    Succeed,
    TerminalEffects,
    TerminalHook,
    WebhookTerminalHook,
    WorkflowRuntime,
)


class MyRunner:
    async def run_step(self, step: Step) -> StepOutcome:
        assert_type(step.run_id, str)
        assert_type(step.step_number, int)
        assert_type(step.payload, bytes)
        assert_type(step.signal, bytes | None)
        assert_type(step.cancel_token, CancelToken)
        assert_type(step.lease, LeaseHandle)
        assert_type(step.effects, StepEffects)
        assert_type(step.memo, Memo)
        assert_type(await step.memo.get("k"), bytes | None)
        assert_type(await step.memo.put("k", b""), None)
        assert_type(await step.memo.content_get({"a": [1]}), bytes | None)
        assert_type(await step.memo.content_put(("a", 1), b""), None)
        step.effects.enqueue(EnqueueRequest("q", b""))
        step.effects.kv_put("a", b"b")
        step.effects.kv_delete(b"a")
        step.payload = b""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        match step.step_number:
            case 0:
                return Continue(b"")
            case 1:
                return Continue(b"", After(timedelta(days=1)))
            case 2:
                return Continue(b"", OnSignal("k", timeout=5))
            case 3:
                return Continue(b"", Immediate())
            case 4:
                return Fail("reason")
            case 5:
                return Cancel("reason")
            case 6:
                raise StepError.permanent("no")
            case 7:
                raise StepError.transient("later")
            case _:
                return Succeed(b"")


class WrongRunner:
    async def run_step(self, step: Step) -> bytes:
        return b""


class MyHook(TerminalHook):
    async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
        assert_type(outcome.state, RunState)
        assert_type(outcome.result, bytes | None)
        assert_type(outcome.ended_at, datetime)


async def running(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, MyRunner(), hook=MyHook(), queue_name="w", memo_retention=60)
    assert_type(await runtime.run(), None)
    async with runtime as entered:
        assert_type(entered, WorkflowRuntime)
    WorkflowRuntime(queue, MyRunner(), hook=WebhookTerminalHook("webhooks"))
    WorkflowRuntime(queue, MyRunner(), step_output_replay=True, max_concurrent_steps=5)
    WorkflowRuntime(queue, WrongRunner())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkflowRuntime(queue, MyRunner(), MyHook())  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


async def using(runtime: WorkflowRuntime, when: datetime) -> None:
    spec = RunSpec(b"", run_id="r", headers={"a": "b"}, kv_writes={"k": b""}, run_at=when)
    outcome = await runtime.submit(spec)
    assert_type(outcome, SubmitOutcome)
    assert_type(outcome.run_id, str)
    assert_type(outcome.new, bool)
    assert_type(await runtime.status("r"), RunStatus | None)
    assert_type(await runtime.wait_for_completion("r", timedelta(hours=1)), RunStatus | None)
    assert_type(await runtime.cancel("r"), bool)
    assert_type(await runtime.signal("k", b""), SignalOutcome)
    assert_type(await runtime.clear_signal("k"), bool)
    RunSpec("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Continue(b"", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def errors(error: StepError) -> None:
    assert_type(error.permanent, bool)
    assert_type(error.transient, bool)
    assert_type(StepError.permanent("x"), StepError)
