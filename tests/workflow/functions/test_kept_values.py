"""Arguments and results of functions and their steps come back as they were, or are refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from taquba import InvalidArgument, Queue
from taquba.testing import OpenQueue
from taquba_workflow import (
    RunFailed,
    StepFailed,
    Workflow,
    WorkflowContext,
    WorkflowRuntime,
    step,
    workflow,
)
from tests.extending.kinds import KINDS, Animal, Dog, Kind, alike
from tests.workflow.functions.support import result_of, running
from tests.workflow.support import EAGER


def taking(kind: Kind, seen: list[Any]) -> Workflow[..., Any]:
    async def take(ctx: WorkflowContext, value: Any) -> None:
        seen.append(value)

    take.__annotations__["value"] = kind.annotation
    return workflow(name=f"take.{name_of(kind)}")(take)


def giving(kind: Kind) -> Workflow[..., Any]:
    async def give(ctx: WorkflowContext) -> Any:
        return kind.value()

    give.__annotations__["return"] = kind.annotation
    return workflow(name=f"give.{name_of(kind)}")(give)


def stepping(kind: Kind) -> Workflow[..., Any]:
    """A function whose step returns a value of a kind."""

    async def give() -> Any:
        return kind.value()

    give.__annotations__["return"] = kind.annotation

    @workflow(name=f"step.{name_of(kind)}")
    async def run(ctx: WorkflowContext) -> str:
        try:
            first = await ctx.step(give)
        except StepFailed as error:
            return str(error)
        return "kept" if alike(first, kind.value()) else repr(first)

    return run


def name_of(kind: Kind) -> str:
    return kind.name.replace(" ", "-").replace(",", "")


async def test_arguments_of_functions(queue: Queue) -> None:
    seen: list[Any] = []
    functions = {kind: taking(kind, seen) for kind in KINDS}
    async with running(queue, *functions.values()) as runtime:
        for kind, function in functions.items():
            if kind.kept:
                await result_of(await runtime.start(function, kind.value()))
                assert alike(kind.value(), seen.pop()), kind
            else:
                with pytest.raises(InvalidArgument, match=f"workflow '{function.name}'.*: value"):
                    await runtime.start(function, kind.value())
    assert seen == []


async def test_results_of_functions(queue: Queue) -> None:
    functions = {kind: giving(kind) for kind in KINDS}
    async with running(queue, *functions.values()) as runtime:
        for kind, function in functions.items():
            handle = await runtime.start(function)
            if kind.kept:
                assert alike(kind.value(), await result_of(handle)), kind
            else:
                with pytest.raises(RunFailed, match="the result cannot be stored"):
                    await result_of(handle)


async def test_results_of_steps(queue: Queue) -> None:
    functions = {kind: stepping(kind) for kind in KINDS}
    async with running(queue, *functions.values()) as runtime:
        for kind, function in functions.items():
            came = await result_of(await runtime.start(function))
            if kind.kept:
                assert came == "kept", kind
            else:
                assert "the result cannot be stored" in came, kind
        assert await runtime.parked() == []


@step(max_attempts=2, backoff=0)
async def total(numbers: Iterable[int]) -> int:
    found = sum(numbers)
    fails_once.append(found)
    if len(fails_once) == 1:
        raise ConnectionError
    return found


fails_once: list[int] = []


async def open_with(secret: SecretStr, pet: Animal) -> str:
    assert isinstance(pet, Dog)
    return secret.get_secret_value()


@workflow(name="gives")
async def gives(ctx: WorkflowContext) -> tuple[int, str]:
    return (
        await ctx.step(total, (number for number in (1, 2, 3))),
        await ctx.step(open_with, SecretStr("hunter2"), Dog(name="Rex", tricks=1)),
    )


async def test_arguments_of_steps_are_not_stored_and_reach_every_attempt(
    open_queue: OpenQueue,
) -> None:
    fails_once.clear()
    queue = await open_queue(default_config=EAGER)
    async with running(queue, gives) as runtime:
        assert await result_of(await runtime.start(gives)) == (6, "hunter2")
    assert fails_once == [6, 6]


@workflow(name="child")
async def child(ctx: WorkflowContext, pet: Animal) -> None: ...


@workflow(name="parent")
async def parent(ctx: WorkflowContext) -> str:
    try:
        await ctx.child(child, Dog(name="Rex", tricks=1))
    except InvalidArgument as error:
        return str(error)
    return "started"


async def test_arguments_of_children_are_refused_before_they_start(queue: Queue) -> None:
    async with running(queue, parent, child) as runtime:
        came = await result_of(await runtime.start(parent))
        assert came.startswith("an argument of workflow 'child' cannot be stored: pet: a Dog")
        assert isinstance(runtime, WorkflowRuntime)


called: list[int] = []


async def gives_an_iterator(number: int) -> Iterator[int]:
    called.append(number)
    return iter([number])


@workflow(name="asks-for-an-iterator")
async def asks_for_an_iterator(ctx: WorkflowContext) -> int:
    return sum(await ctx.step(gives_an_iterator, 1))


async def test_a_step_whose_results_cannot_be_stored_is_not_called(queue: Queue) -> None:
    async with running(queue, asks_for_an_iterator) as runtime:
        handle = await runtime.start(asks_for_an_iterator)
        with pytest.raises(RunFailed, match="'gives_an_iterator' has an annotation"):
            await handle.result(timeout=5)
    assert called == []
