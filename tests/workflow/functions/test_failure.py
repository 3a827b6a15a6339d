"""Compensations and cancellation: what was done is undone, as recorded steps."""

from __future__ import annotations

import asyncio

import pytest

from taquba import Queue
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    RunFailed,
    RunState,
    StepError,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)
from tests.workflow.functions.support import ID, calls, result_of, running, settled
from tests.workflow.support import fresh_url, status_of

done: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


async def do(name: str) -> str:
    done.append(name)
    return name


@step(max_attempts=2, backoff=10)
async def undo(name: str) -> None:
    if name == "stubborn" and current_step().attempt == 1:
        raise ValueError("not yet")
    if name == "hopeless":
        raise StepError.permanent("never")
    done.append(f"undo {name}")


@workflow(name="saga")
async def saga(ctx: WorkflowContext, *names: str) -> str:
    for name in names:
        ctx.on_failure(undo, await ctx.step(do, name))
    await ctx.wait_signal("go on")
    raise LookupError("no way")


async def test_compensations_run_in_reverse_when_the_function_fails(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, saga) as runtime:
        handle = await runtime.start_with(ID, saga, "a", "b", "c")
        await mock_clock.advance(0)
        await runtime.signal("go on")
        with pytest.raises(RunFailed, match="LookupError: no way") as ended:
            await result_of(handle)
        assert ended.value.state == "failed"
        assert (await calls(runtime))[-4:] == [
            "3 signal go on done",
            "failure.0 step undo done",
            "failure.1 step undo done",
            "failure.2 step undo done",
        ]
    assert done == ["a", "b", "c", "undo c", "undo b", "undo a"]


async def test_compensations_are_retried_and_one_that_fails_does_not_stop_the_others(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, saga) as runtime:
        handle = await runtime.start_with(ID, saga, "a", "stubborn", "hopeless")
        await mock_clock.advance(0)
        await runtime.signal("go on")
        assert (await settled(mock_clock, runtime)).state is RunState.SLEEPING
        await mock_clock.advance(10)
        with pytest.raises(
            RunFailed, match="no way; compensation step 'undo' failed: StepError: never"
        ):
            await result_of(handle)
    assert done == ["a", "stubborn", "hopeless", "undo stubborn", "undo a"]


async def test_a_function_that_succeeds_undoes_nothing(queue: Queue) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        ctx.on_failure(undo, "a")
        return await ctx.step(do, "a")

    async with running(queue, w) as runtime:
        assert await result_of(await runtime.start(w)) == "a"
    assert done == ["a"]


async def test_a_waiting_run_that_is_cancelled_runs_its_compensations(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, saga) as runtime:
        handle = await runtime.start_with(ID, saga, "a", "stubborn")
        await mock_clock.advance(0)
        assert await handle.cancel()
        status = await settled(mock_clock, runtime)
        assert status.state is RunState.CANCELLING
        assert await handle.cancel()
        await runtime.signal("go on")
        await mock_clock.advance(10)
        with pytest.raises(RunFailed, match="cancelled: cancelled on request"):
            await result_of(handle)
        assert not await handle.cancel()
        # Nobody waits for it, so it is kept.
        assert await runtime.clear_signal("go on")
    assert done == ["a", "stubborn", "undo stubborn", "undo a"]


async def test_a_cancelled_run_ends_its_steps_but_begins_none(
    queue: Queue, mock_clock: MockClock
) -> None:
    begun = asyncio.Event()
    cleaned: list[str] = []

    async def long() -> str:
        begun.set()
        await current_step().cancel_token.wait()
        return "long"

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> None:
        async def branch() -> None:
            name = await ctx.step(long)
            ctx.on_failure(undo, name)
            await ctx.step(do, "never")

        try:
            await ctx.gather(branch(), ctx.sleep(1000))
        finally:
            cleaned.append("locally")
            await ctx.step(do, "never")

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await begun.wait()
        assert await handle.cancel()
        with pytest.raises(RunFailed, match="cancelled on request"):
            await result_of(handle)
        assert await calls(runtime) == ["0.0.0 step long done", "failure.0 step undo done"]
    # Its effect took place, so it is undone.
    assert done == ["undo long"]
    assert cleaned == ["locally"]


async def test_a_run_that_is_cancelled_before_it_begins_does_nothing(
    queue: Queue, mock_clock: MockClock
) -> None:
    runtime = WorkflowRuntime(queue, workflows=[saga])
    handle = await runtime.start_with(ID, saga, "a")
    assert await handle.cancel()
    async with running(queue, saga):
        with pytest.raises(RunFailed, match="cancelled on request"):
            await result_of(handle)
    assert done == []


async def test_a_request_to_cancel_is_not_lost_with_the_process(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    begun = asyncio.Event()

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> None:
        ctx.on_failure(undo, await ctx.step(do, "a"))
        await ctx.step(hang)
        await ctx.step(do, "never")

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    queue = await open_queue(url)
    working = asyncio.create_task(WorkflowRuntime(queue, workflows=[w]).run())
    runtime = WorkflowRuntime(queue, workflows=[w])
    await runtime.start_with(ID, w)
    await begun.wait()
    assert await runtime.cancel("r")
    assert (await status_of(runtime, "r")).state is RunState.CANCELLING
    queue = await open_queue(url, take_over=True)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="cancelled on request"):
            await result_of(runtime.handle(w, "r"))
    assert done == ["a", "undo a"]


async def test_a_request_that_comes_as_the_function_returns_still_undoes_what_it_did(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        ctx.on_failure(undo, "a")
        name = await ctx.step(do, "a")
        # In the last moment: nothing is awaited any more.
        asked.append(asyncio.ensure_future(runtime.cancel("r")))
        await asyncio.sleep(0)
        return name

    asked: list[asyncio.Future[bool]] = []
    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        with pytest.raises(RunFailed, match="cancelled on request"):
            await result_of(handle)
        assert await asked[0]
    assert done == ["a", "undo a"]


async def test_children_are_cancelled_with_their_parent(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="parent")
    async def parent(ctx: WorkflowContext) -> None:
        ctx.on_failure(undo, "parent")
        await ctx.gather(ctx.child(saga, "x"), ctx.sleep(1000))

    async with running(queue, parent, saga) as runtime:
        handle = await runtime.start_with(ID, parent)
        await mock_clock.advance(0)
        child, _ = await runtime.history("r")
        await handle.cancel()
        await mock_clock.advance(0)
        with pytest.raises(RunFailed, match="cancelled"):
            await result_of(handle)
        assert child.child_run_id is not None
        with pytest.raises(RunFailed, match="cancelled"):
            await result_of(runtime.handle(saga, child.child_run_id))
    assert sorted(done) == ["undo parent", "undo x", "x"]


async def test_arguments_of_a_compensation_are_checked_when_it_is_registered(queue: Queue) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> None:
        ctx.on_failure(undo, 5)  # type: ignore[arg-type]

    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="step 'undo': name: "):
            await result_of(await runtime.start(w))
