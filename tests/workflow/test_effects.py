"""What a step or a hook stages: all of it lands with the settlement, or it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from taquba import EnqueueRequest, InvalidArgument, JobStatus, Queue
from taquba.testing import MockClock
from taquba_workflow import (
    EffectsSealed,
    RunOutcome,
    RunSpec,
    RunState,
    Step,
    StepEffects,
    StepError,
    StepOutcome,
    Succeed,
    TerminalEffects,
    TerminalHook,
    WorkflowRuntime,
)
from tests.workflow.support import Runs, entries, finish, until

STAGE: list[Callable[[StepEffects], None]] = [
    lambda effects: effects.kv_put("late", b""),
    lambda effects: effects.kv_delete("late"),
    lambda effects: effects.enqueue(EnqueueRequest("late", b"")),
]


@pytest.mark.parametrize("stage", STAGE, ids=["kv_put", "kv_delete", "enqueue"])
@pytest.mark.parametrize("fails", [False, True], ids=["returned", "raised"])
async def test_staging_for_a_step_that_has_ended_is_refused(
    queue: Queue, stage: Callable[[StepEffects], None], fails: bool
) -> None:
    kept: list[StepEffects] = []

    async def run(step: Step) -> StepOutcome:
        kept.append(step.effects)
        if fails:
            raise StepError.permanent("no")
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        with pytest.raises(EffectsSealed, match="after step 0 of run 'r' had ended"):
            stage(kept[0])
    assert await entries(queue, "late") == {}


async def test_staging_for_a_hook_that_has_ended_is_refused(queue: Queue) -> None:
    kept: list[TerminalEffects] = []

    class Hook(TerminalHook):
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            kept.append(effects)

    async def run(step: Step) -> StepOutcome:
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run), hook=Hook()) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await until(lambda: bool(kept))
        await asyncio.sleep(0)
        with pytest.raises(EffectsSealed, match="the terminal hook for run 'r' had ended"):
            kept[0].kv_put("late", b"")


def test_a_text_and_its_bytes_are_one_staged_entry() -> None:
    effects = StepEffects()
    effects.kv_put("k", b"first")
    effects.kv_delete(b"k")
    assert (dict(effects.settlement().kv_writes), list(effects.settlement().kv_deletes)) == (
        {},
        [b"k"],
    )
    effects.kv_put(b"k", b"last")
    assert dict(effects.settlement().kv_writes) == {b"k": b"last"}
    assert not effects.settlement().kv_deletes


def test_an_entry_that_a_staged_job_brings_is_not_staged_otherwise() -> None:
    brings = EnqueueRequest("q", b"", kv_writes={"k": b"v"})
    effects = StepEffects()
    effects.enqueue(brings)
    effects.kv_put("k", b"v")
    with pytest.raises(InvalidArgument, match="b'k'"):
        effects.kv_put(b"k", b"other")
    with pytest.raises(InvalidArgument, match="b'k'"):
        effects.kv_delete("k")
    effects = StepEffects()
    effects.kv_delete("k")
    with pytest.raises(InvalidArgument, match="b'k'"):
        effects.enqueue(brings)


async def test_a_permanent_failure_of_a_hook_is_final(queue: Queue, mock_clock: MockClock) -> None:
    calls: list[str] = []

    class Hook(TerminalHook):
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            calls.append(outcome.run_id)
            raise StepError.permanent("nobody there")

    async def run(step: Step) -> StepOutcome:
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run), hook=Hook()) as runtime:
        submitted = await runtime.submit(RunSpec(b""))
        (ended,) = await finish(runtime, submitted.run_id)
        assert ended.state is RunState.SUCCEEDED
        await until(lambda: bool(calls))
        await mock_clock.advance(0)
        letters = await queue.list_jobs("workflow.termination", JobStatus.DEAD)
    assert [letter.last_error for letter in letters.jobs] == ["nobody there"]
    assert len(calls) == 1
