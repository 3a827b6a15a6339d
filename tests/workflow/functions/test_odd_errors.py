"""Exceptions whose own methods break: they are failures like any others."""

from __future__ import annotations

import pytest

from taquba import Queue
from taquba_workflow import (
    RunFailed,
    RunSpec,
    RunState,
    Step,
    StepFailed,
    StepOptions,
    StepOutcome,
    WorkflowContext,
    WorkflowRuntime,
    workflow,
)
from tests.workflow.functions.support import result_of, running
from tests.workflow.support import Runs, finish

ONCE = StepOptions(max_attempts=1)


class Odd(Exception):
    def __str__(self) -> str:
        raise AttributeError("response")


async def odd() -> None:
    raise Odd


@workflow(name="catches")
async def catches(ctx: WorkflowContext) -> str:
    try:
        await ctx.step_with(ONCE, odd)
    except StepFailed as error:
        return error.kind
    return "nothing was raised"


@workflow(name="raises")
async def raises(ctx: WorkflowContext) -> None:
    raise Odd


async def test_a_function_hears_of_a_step_whose_error_has_no_text(queue: Queue) -> None:
    async with running(queue, catches) as runtime:
        assert await result_of(await runtime.start(catches)) == "Odd"


async def test_a_function_may_fail_with_an_error_without_text(queue: Queue) -> None:
    async with running(queue, raises) as runtime:
        with pytest.raises(RunFailed, match=r"Odd \(without its message"):
            await result_of(await runtime.start(raises))


async def test_a_run_ends_with_a_step_whose_error_has_no_text(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        raise Odd

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r", max_attempts=1))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.FAILED
    assert "Odd (without its message" in (status.reason or "")
