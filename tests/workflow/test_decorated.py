"""Coroutine functions under plain decorators: as workflows, steps, runners and hooks."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue
from taquba_workflow import (
    RunFailed,
    RunOutcome,
    RunSpec,
    Step,
    StepOutcome,
    Succeed,
    TerminalEffects,
    WorkflowContext,
    WorkflowRuntime,
    workflow,
)
from tests.workflow.functions.support import result_of, running
from tests.workflow.support import Runs, finish, until

F = TypeVar("F", bound=Callable[..., Any])


def timed(function: F) -> F:
    """A decorator as people write them: plain, whatever it decorates."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner  # type: ignore[return-value]


@timed
async def double(number: int) -> int:
    return 2 * number


undone: list[int] = []


@timed
async def undo(number: int) -> None:
    undone.append(number)


async def numbers() -> AsyncIterator[int]:
    yield 1


@workflow(name="decorated")
@timed
async def decorated(ctx: WorkflowContext, number: int) -> int:
    found: int = await ctx.step(double, number)
    ctx.on_failure(undo, found)
    if number > 5:
        raise ValueError
    return found


@workflow(name="yields")
async def yields(ctx: WorkflowContext) -> object:
    return await ctx.step(numbers)  # type: ignore[arg-type]


async def test_workflows_steps_and_compensations_are_awaited(queue: Queue) -> None:
    async with running(queue, decorated) as runtime:
        assert await result_of(await runtime.start(decorated, 3)) == 6
        with pytest.raises(RunFailed, match="ValueError"):
            await result_of(await runtime.start(decorated, 7))
    assert undone == [14]


async def test_a_step_that_yields_is_refused(queue: Queue) -> None:
    async with running(queue, yields) as runtime:
        with pytest.raises(RunFailed, match="a step must return its result"):
            await result_of(await runtime.start(yields))


def test_what_is_no_async_function_is_no_workflow() -> None:
    with pytest.raises(InvalidArgumentType, match="async def"):
        workflow(name="w")(numbers)  # type: ignore[type-var, arg-type]


async def test_a_runner_and_a_hook_may_be_decorated(queue: Queue) -> None:
    told: list[str] = []

    class Decorated:
        @timed
        async def run_step(self, step: Step) -> StepOutcome:
            return Succeed(b"done")

        @timed
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
            told.append(outcome.run_id)

        def observes(self, outcome: RunOutcome) -> bool:
            return True

    both = Decorated()
    async with WorkflowRuntime(queue, both, hook=both) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
        await until(lambda: told == ["r"])
    assert status.result == b"done"


async def nothing(step: Step) -> StepOutcome:
    return Succeed()


async def test_observes_is_a_plain_function(queue: Queue) -> None:
    class Hook:
        async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None: ...

        async def observes(self, outcome: RunOutcome) -> bool:
            return True

    with pytest.raises(InvalidArgumentType, match="observes\\(\\) of the hook"):
        WorkflowRuntime(queue, Runs(nothing), hook=Hook())  # type: ignore[arg-type]


async def scaled(factor: int, ctx: WorkflowContext, number: int) -> int:
    return factor * number


@pytest.mark.parametrize(
    "function", [functools.partial(scaled, 2), timed(functools.partial(scaled, 2))]
)
async def test_a_workflow_may_be_a_function_with_some_arguments_given(
    queue: Queue, function: Any
) -> None:
    flow = workflow(name="scaled")(function)
    async with running(queue, flow) as runtime:
        assert await result_of(await runtime.start(flow, 3)) == 6
        with pytest.raises(InvalidArgument, match="number"):
            await runtime.start(flow, "three")
