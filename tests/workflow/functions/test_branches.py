"""Branches and children: several things at the same time, each with its place in the history."""

from __future__ import annotations

import asyncio
import re

import pytest

from taquba import InvalidArgument, Queue
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    ChildFailed,
    RunFailed,
    RunState,
    StepError,
    StepFailed,
    WorkflowContext,
    workflow,
)
from tests.workflow.functions.support import ID, calls, options, result_of, running, settled
from tests.workflow.support import entries, fresh_url, status_of


async def echo(value: int) -> int:
    return value


async def refuse(value: int) -> int:
    raise StepError.permanent(f"no {value}")


async def test_branches_run_at_the_same_time_and_give_their_results_in_order(
    queue: Queue, mock_clock: MockClock
) -> None:
    together = asyncio.Barrier(3)

    async def meet(value: int) -> int:
        await together.wait()
        return value

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> tuple[int, ...]:
        assert await ctx.gather() == ()
        return await ctx.gather(*(ctx.step(meet, value) for value in range(3)))

    async with running(queue, w) as runtime:
        assert await result_of(await runtime.start_with(ID, w)) == (0, 1, 2)
        assert [record.call for record in await runtime.history("r")] == ["1.0.0", "1.1.0", "1.2.0"]


async def test_the_place_of_a_call_does_not_depend_on_which_branch_is_faster(
    queue: Queue, mock_clock: MockClock
) -> None:
    ran: list[tuple[str, int]] = []

    async def note(name: str, number: int) -> str:
        ran.append((name, number))
        return f"{name}{number}"

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> list[list[str]]:
        async def branch(name: str, seconds: int) -> list[str]:
            seen: list[str] = []
            for number in range(3):
                await ctx.sleep(seconds)
                seen.append(await ctx.step(note, name, number))
            return seen

        return list(await ctx.gather(branch("slow", 7), branch("fast", 2)))

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(21)
        assert await result_of(handle) == [
            [f"{name}{number}" for number in range(3)] for name in ("slow", "fast")
        ]
        assert len(await calls(runtime)) == 12
    assert sorted(ran) == [(name, number) for name in ("fast", "slow") for number in range(3)]
    assert [name for name, _ in ran] != sorted(name for name, _ in ran)[::-1]


async def test_all_branches_come_to_their_end_before_an_error_is_raised(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        async def late() -> int:
            await ctx.sleep(10)
            return await ctx.step(refuse, 1)

        try:
            await ctx.gather(late(), ctx.step(refuse, 2), ctx.step(echo, 3))
        except StepFailed as error:
            return error.message
        return ""

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        assert (await settled(mock_clock, runtime)).state is RunState.SLEEPING
        await mock_clock.advance(10)
        # The first in the order of the arguments, not in time.
        assert await result_of(handle) == "no 1"
        assert await calls(runtime) == [
            "0.0.0 sleep sleep done",
            "0.0.1 step refuse failed",
            "0.1.0 step refuse failed",
            "0.2.0 step echo done",
        ]


async def test_when_a_turn_is_over_every_branch_is_cancelled_and_can_clean_up(
    queue: Queue, mock_clock: MockClock
) -> None:
    ended: list[type[BaseException]] = []

    async def branch(ctx: WorkflowContext, number: int) -> None:
        try:
            await ctx.wait_signal(f"never {number}")
        except BaseException as error:
            # What a connection does when it is closed.
            await asyncio.sleep(0)
            ended.append(type(error))
            raise

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> None:
        await ctx.gather(*(branch(ctx, number) for number in range(20)))

    async with running(queue, w) as runtime:
        await runtime.start_with(ID, w)
        await settled(mock_clock, runtime)
        assert ended == [asyncio.CancelledError] * 20


async def test_branches_can_branch(queue: Queue, mock_clock: MockClock) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext, depth: int) -> int:
        async def inner(depth: int) -> int:
            if not depth:
                await ctx.sleep(1)
                return await ctx.step(echo, 1)
            return sum(await ctx.gather(*(inner(depth - 1) for _ in range(2))))

        return await inner(depth)

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w, 4)
        await mock_clock.advance(1)
        assert await result_of(handle) == 16
        assert "0.1.0.1.0.1.0.1.1 step echo done" in await calls(runtime)


# -- children -----------------------------------------------------------------------------------


@workflow(name="child")
async def child(ctx: WorkflowContext, value: int) -> int:
    await ctx.sleep(value)
    if not value:
        raise LookupError("nothing")
    return await ctx.step(echo, value)


@workflow(name="parent")
async def parent(ctx: WorkflowContext) -> tuple[int, ...]:
    return await ctx.gather(*(ctx.child(child, value) for value in (1, 2, 3)))


async def test_a_child_is_a_run_of_its_own_and_its_parent_waits_without_a_worker(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, parent, child, max_concurrent_steps=1) as runtime:
        handle = await runtime.start_with(ID, parent)
        status = await settled(mock_clock, runtime)
        assert (status.state, status.signal_keys) == (RunState.WAITING, ())
        assert (await queue.stats("workflow")).scheduled == 4
        records = await runtime.history("r")
        assert [(record.kind, record.name, record.state) for record in records] == [
            ("child", "child", "waiting")
        ] * 3
        for record in records:
            assert record.child_run_id is not None
            assert re.fullmatch(r"r-[0-9a-f]{32}", record.child_run_id)
            assert (await status_of(runtime, record.child_run_id)).state is RunState.SLEEPING
        await mock_clock.advance(3)
        assert await result_of(handle) == (1, 2, 3)
        assert [record.result for record in await runtime.history("r")] == [1, 2, 3]
        stats = await queue.stats("workflow")
        assert (stats.pending, stats.scheduled, stats.dead) == (0, 0, 0)


async def test_a_child_that_fails_or_is_cancelled_raises_in_its_parent(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> list[str]:
        seen: list[str] = []
        for value in (0, 1000):
            try:
                await ctx.child(child, value)
            except ChildFailed as error:
                seen.append(f"{error.state}: {error.reason}")
        return seen

    async with running(queue, w, child) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(0)
        *_, second = await runtime.history("r")
        assert second.child_run_id is not None
        assert await runtime.cancel(second.child_run_id)
        assert await result_of(handle) == [
            "failed: LookupError: nothing",
            "cancelled: cancelled on request",
        ]


async def test_an_unknown_child_is_an_error_of_the_function(queue: Queue) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        return await ctx.child(child, 1)

    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="does not know <workflow 'child'>"):
            await result_of(await runtime.start(w))


async def test_a_child_that_ended_while_its_parent_was_parked_is_found(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    async with await open_queue(url) as queue, running(queue, parent, child) as runtime:
        await runtime.start_with(ID, parent)
        await mock_clock.advance(0)
    async with await open_queue(url) as queue, running(queue, child) as runtime:
        await mock_clock.advance(10)
        (parked,) = await runtime.parked()
        assert parked.run_id == "r"
    async with await open_queue(url) as queue, running(queue, parent, child) as runtime:
        await mock_clock.advance(30)
        assert await result_of(runtime.handle(parent, "r")) == (1, 2, 3)


async def test_a_large_result_of_a_child_outlives_the_child(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="large")
    async def large(ctx: WorkflowContext) -> bytes:
        return bytes(100_000)

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        result = await ctx.child(large)
        # Longer than the child is kept.
        await ctx.sleep(1000)
        return len(result)

    async with running(queue, w, large, memo_retention=60) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(100)
        assert len(await entries(queue, "workflow/run/")) == 1
        await mock_clock.advance(900)
        assert await result_of(handle) == 100_000


async def test_many_children(queue: Queue, mock_clock: MockClock) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        return sum(await ctx.gather(*(ctx.child(child, 1 + value % 3) for value in range(30))))

    async with running(queue, w, child) as runtime:
        handle = await runtime.start_with(options("r" * 128), w)
        await mock_clock.advance(3)
        assert await result_of(handle) == 60


async def test_a_workflow_can_be_called_as_a_part_of_another(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        return await child(ctx, 5)

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(5)
        assert await result_of(handle) == 5
        assert await calls(runtime) == ["0 sleep sleep done", "1 step echo done"]
        with pytest.raises(InvalidArgument):
            await runtime.start(child, 5)
