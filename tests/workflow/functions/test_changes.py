"""Programs that change under running workflows: nothing is spent, nothing goes wrong unseen."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from taquba import Queue, TaqubaError
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    RunFailed,
    RunSpec,
    RunState,
    SignalOutcome,
    Step,
    StepOutcome,
    Succeed,
    Workflow,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)
from tests.workflow.crashing import DyingEngine, after_writes, die_at
from tests.workflow.functions.support import ID, calls, result_of, running, settled
from tests.workflow.support import EAGER, Runs, finish, fresh_url

Function = Callable[[WorkflowContext], Awaitable[Any]]


def as_version(function: Function, version: int = 1) -> Workflow[[], Any]:
    return workflow(name="w", version=version)(function)


async def first(number: int = 1) -> int:
    return number


async def second(number: int = 1) -> int:
    return number * 10


async def before(ctx: WorkflowContext) -> int:
    total = await ctx.step(first, 1)
    await ctx.gather(ctx.step(first, 2), ctx.step(first, 3))
    await ctx.wait_signal("go")
    return total + await ctx.step(second, 4)


async def other_step(ctx: WorkflowContext) -> None:
    await ctx.step(second, 1)


async def other_arguments(ctx: WorkflowContext) -> None:
    await ctx.step(first, 7)


async def other_kind(ctx: WorkflowContext) -> None:
    await ctx.sleep(1)


async def gathered(ctx: WorkflowContext) -> None:
    await ctx.gather(ctx.step(first, 1))


async def not_gathered(ctx: WorkflowContext) -> None:
    await ctx.step(first, 1)
    await ctx.step(first, 2)


async def fewer_branches(ctx: WorkflowContext) -> None:
    await ctx.step(first, 1)
    await ctx.gather(ctx.step(first, 2))
    await ctx.wait_signal("go")


async def other_signal(ctx: WorkflowContext) -> None:
    await ctx.step(first, 1)
    await ctx.gather(ctx.step(first, 2), ctx.step(first, 3))
    await ctx.wait_signal("come")


async def ends_early(ctx: WorkflowContext) -> None:
    await ctx.step(first, 1)


async def swallows(ctx: WorkflowContext) -> None:
    try:
        await ctx.step(second, 1)
    except Exception:
        await ctx.step(second, 2)


CHANGED = {
    other_step: "call 0 was step 'first' (arguments *) and is now step 'second' (arguments *)",
    other_arguments: "call 0 was step 'first' (arguments *) and is now step 'first' (arguments *)",
    other_kind: "call 0 was step 'first' (arguments *) and is now sleep",
    gathered: "call 0 was step 'first' (arguments *) and is now gather",
    not_gathered: "call 1 was gather and is now step 'first' (arguments *)",
    fewer_branches: "call 1.1.0 was step 'first' (arguments *) and is now none",
    other_signal: "call 2 was wait_signal('go') and is now wait_signal('come')",
    ends_early: "call 1.0.0 was step 'first' (arguments *) and is now none",
    swallows: "call 0 was step 'first' (arguments *) and is now step 'second' (arguments *)",
}


@pytest.mark.parametrize("changed", CHANGED, ids=lambda function: function.__name__)
async def test_a_changed_function_parks_its_runs_until_the_former_one_is_back(
    queue: Queue, mock_clock: MockClock, changed: Function
) -> None:
    former = as_version(before)
    async with running(queue, former) as runtime:
        await runtime.start_with(ID, former)
        await mock_clock.advance(0)
    async with running(queue, as_version(changed)) as runtime:
        await runtime.signal("go")
        # However often it is looked at.
        for _ in range(10):
            await mock_clock.advance(30)
        status = await settled(mock_clock, runtime)
        assert status.state is RunState.SLEEPING
        said = re.sub(r"\(arguments [0-9a-f]{8}\)", "(arguments *)", status.last_error or "")
        assert said.startswith(
            "parked: run 'r' cannot continue, because its function has changed: "
        )
        assert f": {CHANGED[changed]}; " in said
        assert [parked.run_id for parked in await runtime.parked()] == ["r"]
    async with running(queue, former) as runtime:
        await mock_clock.advance(30)
        assert await runtime.parked() == []
        assert await result_of(runtime.handle(former, "r")) == 41


async def test_a_signal_that_a_changed_function_does_not_wait_for_is_not_lost(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def waits(ctx: WorkflowContext) -> bytes:
        return await ctx.wait_signal("go")

    async def does_not(ctx: WorkflowContext) -> bytes:
        return b""

    former, changed = as_version(waits), as_version(does_not)
    async with running(queue, former) as runtime:
        handle = await runtime.start_with(ID, former)
        await mock_clock.advance(0)
    assert await runtime.signal("go", b"there") is SignalOutcome.DELIVERED
    async with running(queue, changed) as runtime:
        await mock_clock.advance(0)
        (parked,) = await runtime.parked()
        assert "call 0 was wait_signal('go') and is now none" in (parked.last_error or "")
    async with running(queue, former):
        await mock_clock.advance(30)
        assert await result_of(handle) == b"there"


async def test_results_that_do_not_fit_their_annotation_any_more_park_the_run(
    queue: Queue, mock_clock: MockClock
) -> None:
    @step(name="count")
    async def count() -> str:
        return "one"

    @step(name="count")
    async def count_in_numbers() -> int:
        return 1

    async def old(ctx: WorkflowContext) -> str:
        result = await ctx.step(count)
        await ctx.sleep(10)
        return result

    async def new(ctx: WorkflowContext) -> int:
        result = await ctx.step(count_in_numbers)
        await ctx.sleep(10)
        return result

    former = as_version(old)
    async with running(queue, former) as runtime:
        handle = await runtime.start_with(ID, former)
        await mock_clock.advance(0)
    async with running(queue, as_version(new)) as runtime:
        await mock_clock.advance(10)
        (parked,) = await runtime.parked()
        assert "call 0 was step 'count' with another result" in (parked.last_error or "")
    async with running(queue, former):
        await mock_clock.advance(30)
        assert await result_of(handle) == "one"


async def test_a_patch_is_for_runs_that_have_not_come_past_it(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def old(ctx: WorkflowContext) -> int:
        total = 0
        for number in range(4):
            total += await ctx.step(first, number)
            await ctx.sleep(10)
        return total

    async def new(ctx: WorkflowContext) -> int:
        total = 0
        for number in range(4):
            if ctx.patched("ten times"):
                total += await ctx.step(second, number)
            else:
                total += await ctx.step(first, number)
            await ctx.sleep(10)
        return total

    former, patched = as_version(old), as_version(new)
    async with running(queue, former) as runtime:
        await runtime.start_with(ID, former)
        await mock_clock.advance(10)
    async with running(queue, patched) as runtime:
        fresh = await runtime.start(patched)
        await mock_clock.advance(50)
        assert await result_of(runtime.handle(patched, "r")) == 0 + 1 + 20 + 30
        assert await result_of(fresh) == 0 + 10 + 20 + 30
        assert [line for line in await calls(runtime) if "patch" in line] == [
            "4 patch ten times done",
            "6 patch ten times done",
        ]


async def test_a_run_of_a_newer_version_is_left_to_a_newer_program(
    queue: Queue, mock_clock: MockClock
) -> None:
    ran: list[int] = []

    async def function(ctx: WorkflowContext) -> int:
        ran.append(1)
        return 1

    old, new = as_version(function), as_version(function, version=2)
    async with running(queue, old) as runtime:
        handle = await WorkflowRuntime(queue, workflows=[new]).start_with(ID, new)
        for _ in range(5):
            await mock_clock.advance(30)
        (parked,) = await runtime.parked()
        assert parked.last_error == (
            "parked: it has version 2, but workflow 'w' has version 1 here"
        )
        assert ran == []
    async with running(queue, new):
        await mock_clock.advance(30)
        assert await result_of(handle) == 1


async def test_stored_arguments_that_fit_no_more_park_the_run(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def takes_a_text(ctx: WorkflowContext, value: str) -> str:
        return value

    async def takes_a_number(ctx: WorkflowContext, value: int) -> int:
        return value

    former = workflow(name="w")(takes_a_text)
    changed = workflow(name="w")(takes_a_number)
    handle = await WorkflowRuntime(queue, workflows=[former]).start_with(ID, former, "text")
    async with running(queue, changed) as runtime:
        await mock_clock.advance(0)
        (parked,) = await runtime.parked()
        assert "its arguments no longer fit workflow 'w': value:" in (parked.last_error or "")
    async with running(queue, former):
        await mock_clock.advance(30)
        assert await result_of(handle) == "text"


async def test_runs_of_functions_and_of_a_runner_share_a_queue(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def run(step: Step) -> StepOutcome:
        return Succeed(step.payload)

    async def function(ctx: WorkflowContext) -> int:
        return 1

    known = as_version(function)
    async with running(queue, known) as runtime:
        await runtime.submit(RunSpec(b"x", run_id="steps"))
        await mock_clock.advance(0)
        (parked,) = await runtime.parked()
        assert parked.last_error == "parked: this program has no runner, only functions"
    async with WorkflowRuntime(queue, Runs(run), workflows=[known]) as runtime:
        handle = await runtime.start(known)
        await mock_clock.advance(30)
        assert await result_of(handle) == 1
        (status,) = await finish(runtime, "steps")
        assert status.result == b"x"


async def test_a_turn_whose_process_always_dies_is_given_up(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    deaths: list[int] = []

    async def die() -> None:
        # Makes durable that the attempt has begun.
        await queue.kv_put("begun", b"")
        deaths.append(current_step().attempt)
        die_at(queue, lambda ops: True)

    async def function(ctx: WorkflowContext) -> None:
        await ctx.step(first)
        await ctx.step(die)

    fatal = as_version(function)
    queue = await open_queue(url, default_config=EAGER)
    handle = await WorkflowRuntime(queue, workflows=[fatal]).start_with(ID, fatal)
    # The first attempt records something, and does not count: its number comes again. Then as many
    # as the queue allows may come to nothing.
    for _ in range(2 + EAGER.max_attempts):
        with pytest.raises(TaqubaError):
            await WorkflowRuntime(queue, workflows=[fatal]).run()
        queue = await open_queue(url, default_config=EAGER)
    async with running(queue, fatal) as runtime:
        handle = runtime.handle(fatal, "r")
        with pytest.raises(RunFailed, match="3 consecutive attempts recorded nothing: the owner"):
            await result_of(handle)
    assert deaths == [1] * (2 + EAGER.max_attempts)


async def test_a_turn_that_gets_further_each_time_may_be_interrupted_any_number_of_times(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    processes = 0

    async def die_after(number: int) -> int:
        nonlocal dying
        # Whichever step of this process comes first is recorded, and no other.
        dying = dying or die_at(queue, after_writes(1))
        return number

    async def function(ctx: WorkflowContext) -> int:
        return sum([await ctx.step(die_after, number) for number in range(8)])

    whole = as_version(function)
    queue = await open_queue(url, default_config=EAGER)
    handle = await WorkflowRuntime(queue, workflows=[whole]).start_with(ID, whole)
    while await handle.fetch_result() is None:
        dying: DyingEngine | None = None
        processes += 1
        with suppress(TaqubaError):
            async with running(queue, whole) as runtime:
                await runtime.handle(whole, "r").result()
        queue = await open_queue(url, default_config=EAGER, take_over=True)
        handle = WorkflowRuntime(queue, workflows=[whole]).handle(whole, "r")
    assert await handle.result() == 28
    assert processes > 2 * EAGER.max_attempts
