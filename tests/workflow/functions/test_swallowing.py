"""Functions that swallow what stops them: the event loop goes on, and the run says why it waits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from taquba import InvalidArgument, Queue
from taquba.testing import MockClock
from taquba_workflow import RunState, Workflow, WorkflowContext, WorkflowRuntime, workflow
from taquba_workflow._functions import turn as turns
from tests.workflow.functions.support import ID, calls, running, settled
from tests.workflow.support import finish


async def poll(number: int) -> bool:
    return False


async def child_of(ctx: WorkflowContext) -> None: ...


child = workflow(name="child")(child_of)

Call = Callable[[WorkflowContext, int], Awaitable[object]]


async def by_step(ctx: WorkflowContext, number: int) -> object:
    return await ctx.step(poll, number)


async def by_time(ctx: WorkflowContext, number: int) -> object:
    ctx.now()
    ctx.random()
    ctx.patched(f"patch {number}")
    ctx.on_failure(poll, number)
    return await ctx.sleep(1)


async def by_signal(ctx: WorkflowContext, number: int) -> object:
    return await ctx.wait_signal(f"never {number}", timeout=1)


async def by_gather(ctx: WorkflowContext, number: int) -> object:
    return await ctx.gather(ctx.step(poll, number), ctx.sleep(1))


async def by_child(ctx: WorkflowContext, number: int) -> object:
    return await ctx.child(child)


async def by_bad_arguments(ctx: WorkflowContext, number: int) -> object:
    return await ctx.step(poll, "none")  # type: ignore[arg-type]


CALLS: dict[str, Call] = {
    "step": by_step,
    "time": by_time,
    "signal": by_signal,
    "gather": by_gather,
    "child": by_child,
    "bad arguments": by_bad_arguments,
}


@workflow(name="swallows")
async def swallows(ctx: WorkflowContext, what: str) -> None:
    number = 0
    while True:
        try:
            await ctx.sleep(1)
            await CALLS[what](ctx, number)
            await ctx.sleep(3600)
        except:  # noqa: E722 - the point of the test
            pass
        number += 1


@workflow(name="waits_elsewhere")
async def waits_elsewhere(ctx: WorkflowContext) -> None:
    await asyncio.gather(*(_sleep_on() for _ in range(2)), return_exceptions=True)
    while True:
        try:
            await ctx.sleep(3600)
        except BaseException:
            while True:
                try:
                    await asyncio.sleep(0.01)
                except BaseException:
                    continue


async def _sleep_on() -> None:
    await asyncio.sleep(0)


@workflow(name="in_a_branch")
async def in_a_branch(ctx: WorkflowContext) -> None:
    async def branch() -> None:
        while True:
            try:
                await ctx.sleep(3600)
            except BaseException:
                continue

    await ctx.gather(branch(), branch())


async def parked(runtime: WorkflowRuntime, clock: MockClock) -> str:
    """Why the run waits, once it does."""
    async with asyncio.timeout(30):
        while True:
            status = await settled(clock, runtime)
            if status.last_error is not None:
                break
            await clock.advance(1)
    assert [run.run_id for run in await runtime.parked()] == ["r"]
    return status.last_error


@pytest.mark.parametrize("what", CALLS)
async def test_a_function_that_catches_everything_is_parked(
    queue: Queue, mock_clock: MockClock, what: str
) -> None:
    async with running(queue, swallows, child) as runtime:
        await runtime.start_with(ID, swallows, what)
        why = await parked(runtime, mock_clock)
        assert "swallows asyncio.CancelledError" in why
        before = await calls(runtime)
        await mock_clock.advance(100)
        assert await calls(runtime) == before
        assert (await settled(mock_clock, runtime)).state is RunState.SLEEPING
    # What was left behind is never resumed, and says nothing when garbage is collected.
    gc.collect()


@pytest.mark.parametrize("function", [waits_elsewhere, in_a_branch], ids=lambda one: one.name)
async def test_it_is_left_behind_wherever_it_waits(
    queue: Queue, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, function: object
) -> None:
    monkeypatch.setattr(turns, "_CLEAN_UP_SECONDS", 0.05)
    async with running(queue, waits_elsewhere, in_a_branch) as runtime:
        await runtime.start_with(ID, function)  # type: ignore[arg-type]
        assert "swallows asyncio.CancelledError" in await parked(runtime, mock_clock)


@workflow(name="pays")
async def pays(ctx: WorkflowContext) -> None:
    await ctx.step(poll, 1)
    ctx.on_failure(poll, 2)
    while True:
        try:
            await ctx.sleep(3600)
        except BaseException:
            ctx.on_failure(poll, 3)


async def test_it_can_be_cancelled(queue: Queue, mock_clock: MockClock) -> None:
    async with running(queue, pays) as runtime:
        await runtime.start_with(ID, pays)
        await parked(runtime, mock_clock)
        assert await runtime.cancel("r")
        (status,) = await finish(runtime, "r")
        assert status.state is RunState.CANCELLED
        # What it registered before its turn was over is undone, and nothing else.
        assert await calls(runtime) == ["0 step poll done", "failure.0 step poll done"]


async def refused_step(ctx: WorkflowContext) -> object:
    return await ctx.step(poll, "none")  # type: ignore[arg-type]


async def refused_options(ctx: WorkflowContext) -> object:
    return await ctx.step_with("none", poll, 1)  # type: ignore[call-overload]


async def refused_sleep(ctx: WorkflowContext) -> object:
    return await ctx.sleep(-1)


async def refused_signal(ctx: WorkflowContext) -> object:
    return await ctx.wait_signal("")


async def refused_gather(ctx: WorkflowContext) -> object:
    return await ctx.gather(1, ctx.sleep(1))  # type: ignore[call-overload]


async def refused_child(ctx: WorkflowContext) -> object:
    return await ctx.child(swallows, "not known here")


REFUSED: dict[str, Callable[[WorkflowContext], Awaitable[object]]] = {
    "step": refused_step,
    "options": refused_options,
    "sleep": refused_sleep,
    "signal": refused_signal,
    "gather": refused_gather,
    "child": refused_child,
}
refused: list[str] = []


@workflow(name="insists")
async def insists(ctx: WorkflowContext, what: str) -> None:
    await ctx.step(poll, 1)
    while True:
        try:
            await REFUSED[what](ctx)
        except:  # noqa: E722 - the point of the test
            refused.append(what)


@workflow(name="insists_in_a_branch")
async def insists_in_a_branch(ctx: WorkflowContext, what: str) -> None:
    async def branch() -> None:
        await insists.function(ctx, what)

    await ctx.gather(branch(), branch())


async def until_refused(what: str) -> None:
    refused.clear()
    async with asyncio.timeout(30):
        while what not in refused:  # noqa: ASYNC110 - nothing else is to run but the function
            await asyncio.sleep(0)


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("function", [insists, insists_in_a_branch], ids=lambda one: one.name)
async def test_a_runtime_can_be_left_while_a_function_repeats_a_call_that_is_refused(
    queue: Queue, mock_clock: MockClock, function: Workflow[[str], None], what: str
) -> None:
    async with asyncio.timeout(5), running(queue, function) as runtime:
        await runtime.start_with(ID, function, what)
        await until_refused(what)
    # The next process begins where this one has left.
    assert (await calls(runtime))[-1].endswith("step poll done")


async def test_each_refusal_lets_others_run(queue: Queue, mock_clock: MockClock) -> None:
    async with running(queue, insists) as runtime:
        await runtime.start_with(ID, insists, "sleep")
        await until_refused("sleep")
        refused.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(refused) < 20


@pytest.mark.parametrize("function", [insists, insists_in_a_branch], ids=lambda one: one.name)
async def test_a_function_that_repeats_a_refused_call_for_ever_is_parked(
    queue: Queue,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    function: Workflow[[str], None],
) -> None:
    monkeypatch.setattr(turns, "_REFUSALS", 200)
    async with running(queue, function) as runtime:
        await runtime.start_with(ID, function, "sleep")
        why = await parked(runtime, mock_clock)
        assert "200 calls in a row that were refused" in why
        assert "duration must be" in why
        assert await runtime.cancel("r")
        (status,) = await finish(runtime, "r")
        assert status.state is RunState.CANCELLED


async def test_it_can_be_cancelled_before_it_is_parked(
    queue: Queue, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_REFUSALS", 1000)
    async with running(queue, insists) as runtime:
        await runtime.start_with(ID, insists, "sleep")
        await until_refused("sleep")
        assert await runtime.cancel("r")
        (status,) = await finish(runtime, "r")
        assert status.state is RunState.CANCELLED


@workflow(name="checks")
async def checks(ctx: WorkflowContext) -> int:
    bad = 0
    for _ in range(300):
        try:
            await refused_sleep(ctx)
        except InvalidArgument:
            bad += 1
    await ctx.step(poll, bad)
    return bad


async def test_refusals_that_come_to_an_end_are_fine(queue: Queue, mock_clock: MockClock) -> None:
    async with running(queue, checks) as runtime:
        handle = await runtime.start_with(ID, checks)
        await mock_clock.advance(0)
        assert await handle.result(timeout=1) == 300


@workflow(name="cleans_up")
async def cleans_up(ctx: WorkflowContext) -> str:
    try:
        await ctx.sleep(10)
    finally:
        for number in range(10):
            try:
                await ctx.step(poll, number)
            except asyncio.CancelledError:
                continue
    return "done"


async def test_a_clean_up_may_call_the_context(queue: Queue, mock_clock: MockClock) -> None:
    async with running(queue, cleans_up) as runtime:
        handle = await runtime.start_with(ID, cleans_up)
        await mock_clock.advance(20)
        assert await handle.result(timeout=1) == "done"


async def test_a_task_of_ones_own_that_goes_on_does_not_hold_the_loop(
    queue: Queue, mock_clock: MockClock
) -> None:
    tasks: list[asyncio.Task[None]] = []
    stop = asyncio.Event()

    @workflow(name="own_task")
    async def own_task(ctx: WorkflowContext) -> None:
        async def poll_on() -> None:
            while not stop.is_set():
                try:
                    await ctx.step(poll, 1)
                except BaseException:
                    continue

        tasks.append(asyncio.create_task(poll_on()))
        await ctx.sleep(3600)

    async with running(queue, own_task) as runtime:
        await runtime.start_with(ID, own_task)
        await settled(mock_clock, runtime)
        await asyncio.sleep(0.02)
        stop.set()
        tasks[0].cancel()
        await asyncio.wait(tasks)
