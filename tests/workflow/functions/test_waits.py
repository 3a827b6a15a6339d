"""Sleeps and signals in functions: durable, and nothing is held meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from taquba import Queue
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    RunFailed,
    RunState,
    SignalOutcome,
    SignalTaken,
    WorkflowContext,
    workflow,
)
from taquba_workflow._records import Buffered, decode_signal
from tests.workflow.functions.support import ID, calls, options, result_of, running, settled
from tests.workflow.support import entries, fresh_url


async def nothing() -> None: ...


@workflow(name="sleeper")
async def sleeper(ctx: WorkflowContext) -> list[float]:
    times = [ctx.now().timestamp()]
    for seconds in (10, 0, timedelta(days=1)):
        await ctx.sleep(seconds)
        times.append(ctx.now().timestamp())
    return [time - times[0] for time in times]


async def test_a_sleep_lasts_from_when_the_call_before_ended(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, sleeper) as runtime:
        handle = await runtime.start_with(ID, sleeper)
        status = await settled(mock_clock, runtime)
        assert (status.state, status.starts_at) == (
            RunState.SLEEPING,
            mock_clock.now() + timedelta(seconds=10),
        )
        await mock_clock.advance(9)
        assert await calls(runtime) == ["0 sleep sleep waiting"]
        await mock_clock.advance(1)
        assert await calls(runtime) == [
            "0 sleep sleep done",
            "1 sleep sleep done",
            "2 sleep sleep waiting",
        ]
        await mock_clock.advance(86400)
        assert await result_of(handle) == [0, 10, 10, 86410]
        # One turn for each time it waited.
        status = await settled(mock_clock, runtime)
        assert status.step_number == 2


async def test_a_sleep_goes_on_while_no_process_runs(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    async with await open_queue(url) as queue, running(queue, sleeper) as runtime:
        await runtime.start_with(ID, sleeper)
        await mock_clock.advance(0)
    await mock_clock.advance(86500)
    async with await open_queue(url) as queue, running(queue, sleeper) as runtime:
        await mock_clock.advance(0)
        assert await calls(runtime) == [
            "0 sleep sleep done",
            "1 sleep sleep done",
            "2 sleep sleep waiting",
        ]
        await mock_clock.advance(86400)
        assert await result_of(runtime.handle(sleeper, "r")) == [0, 86500, 86500, 2 * 86400 + 100]


@workflow(name="asker")
async def asker(ctx: WorkflowContext) -> list[bytes | None]:
    seen = [await ctx.wait_signal("a")]
    seen.append(await ctx.wait_signal("b", timeout=10))
    seen.append(await ctx.wait_signal("a", timeout=10))
    return seen


async def test_a_signal_is_waited_for_and_one_that_came_before_is_taken(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, asker) as runtime:
        assert await runtime.signal("b", b"early") is SignalOutcome.BUFFERED
        handle = await runtime.start_with(ID, asker)
        status = await settled(mock_clock, runtime)
        assert (status.state, status.signal_keys) == (RunState.WAITING, ("a",))
        assert await runtime.signal("a", b"first") is SignalOutcome.DELIVERED
        status = await settled(mock_clock, runtime)
        assert (status.state, status.signal_keys) == (RunState.WAITING, ("a",))
        assert [record.result for record in await runtime.history("r")] == [
            b"first",
            b"early",
            None,
        ]
        await mock_clock.advance(10)
        assert await result_of(handle) == [b"first", b"early", None]
        assert await entries(queue, "workflow/signal/") == {}


async def test_a_signal_after_the_time_out_is_kept_for_the_next(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> bytes | None:
        return await ctx.wait_signal("k", 10)

    async with running(queue, w) as runtime:
        handle = await runtime.start(w)
        await mock_clock.advance(10)
        assert await result_of(handle) is None
        assert await runtime.signal("k", b"late") is SignalOutcome.BUFFERED
        assert await result_of(await runtime.start(w)) == b"late"


class Answer(BaseModel):
    yes: bool
    by: str = ""


async def test_a_signal_can_be_typed(queue: Queue, mock_clock: MockClock) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> list[Answer | str | None]:
        first = await ctx.wait_signal("k", type=Answer)
        try:
            await ctx.wait_signal("k", type=Answer)
        except ValueError as error:
            problem = str(error)
        return [first, problem, await ctx.wait_signal("k", timeout=1, type=Answer)]

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        for payload in (Answer(yes=True).model_dump_json(), '{"by": "me"}'):
            await mock_clock.advance(0)
            await runtime.signal("k", payload.encode())
        await mock_clock.advance(1)
        assert await result_of(handle) == [
            Answer(yes=True),
            "the payload of signal 'k' does not fit its type: yes: Field required",
            None,
        ]


async def test_several_signals_and_times_are_waited_for_at_once(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> tuple[object, ...]:
        return await ctx.gather(
            ctx.wait_signal("a"), ctx.wait_signal("b", 20), ctx.sleep(10), ctx.wait_signal("c")
        )

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        status = await settled(mock_clock, runtime)
        assert status.signal_keys == ("a", "b", "c")
        assert status.starts_at == mock_clock.now() + timedelta(seconds=10)
        # Both before the next turn begins: one wakes it, the other is kept for it.
        outcomes = await asyncio.gather(runtime.signal("c", b"C"), runtime.signal("a", b"A"))
        assert set(outcomes) == {SignalOutcome.DELIVERED, SignalOutcome.BUFFERED}
        status = await settled(mock_clock, runtime)
        assert status.signal_keys == ("b",)
        await mock_clock.advance(10)
        await mock_clock.advance(9)
        assert (await settled(mock_clock, runtime)).state is RunState.WAITING
        await mock_clock.advance(1)
        assert await result_of(handle) == (b"A", None, None, b"C")
        assert await entries(queue, "workflow/signal/") == {}


async def test_a_signal_that_comes_while_a_turn_runs_is_taken_when_its_branches_wait(
    queue: Queue, mock_clock: MockClock
) -> None:
    go_on = asyncio.Event()

    async def long() -> None:
        await go_on.wait()

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> tuple[object, ...]:
        return await ctx.gather(ctx.wait_signal("a"), ctx.step(long), ctx.sleep(5))

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(0)
        assert await runtime.signal("a", b"A") is SignalOutcome.BUFFERED
        # A time that comes is not waited for: that branch goes on in the turn.
        await mock_clock.advance(5)
        assert await calls(runtime) == ["0.2.0 sleep sleep done"]
        go_on.set()
        assert await result_of(handle) == (b"A", None, None)


async def test_a_signal_belongs_to_one_wait_at_a_time(queue: Queue, mock_clock: MockClock) -> None:
    undone: list[str] = []

    async def undo(run_id: str) -> None:
        undone.append(run_id)

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> bytes:
        ctx.on_failure(undo, ctx.run_id)
        return await ctx.wait_signal("k")

    @workflow(name="twice")
    async def twice(ctx: WorkflowContext) -> bytes:
        async def second() -> bytes:
            try:
                return await ctx.wait_signal("k")
            except SignalTaken:
                return b"taken"

        return b"".join(await ctx.gather(ctx.wait_signal("k"), second()))

    async with running(queue, w, twice) as runtime:
        first = await runtime.start_with(options("first"), w)
        await mock_clock.advance(0)
        with pytest.raises(RunFailed, match="another run already waits for the signal 'k'"):
            await result_of(await runtime.start_with(options("second"), w))
        assert undone == ["second"]
        await runtime.signal("k", b"one")
        assert await result_of(first) == b"one"
        both = await runtime.start_with(options("both"), twice)
        await mock_clock.advance(0)
        await runtime.signal("k", b"one, ")
        assert await result_of(both) == b"one, taken"
        assert await entries(queue, "workflow/signal/") == {}


async def test_a_waiting_run_holds_no_worker(queue: Queue, mock_clock: MockClock) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext, number: int) -> None:
        await ctx.wait_signal(f"k{number}")

    async with running(queue, w, max_concurrent_steps=1) as runtime:
        handles = [await runtime.start(w, number) for number in range(5)]
        await mock_clock.advance(0)
        stats = await queue.stats("workflow")
        assert (stats.claimed, stats.scheduled) == (0, 5)
        for number in reversed(range(5)):
            await runtime.signal(f"k{number}")
        for handle in handles:
            await result_of(handle)


async def test_a_signal_to_a_run_that_nobody_can_wake_is_kept(
    queue: Queue, mock_clock: MockClock
) -> None:
    """A run that is parked has an error; the signal is buffered, and taken when it goes on."""

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> bytes:
        return await ctx.wait_signal("k")

    @workflow(name="else")
    async def other(ctx: WorkflowContext) -> None: ...

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(0)
    async with running(queue, other) as runtime:
        assert await runtime.signal("k", b"x") is SignalOutcome.DELIVERED
        status = await settled(mock_clock, runtime)
        assert status.last_error == "parked: no workflow 'w' is known here"
        assert await runtime.signal("k", b"y") is SignalOutcome.BUFFERED
    async with running(queue, w):
        await mock_clock.advance(30)
        assert await result_of(handle) == b"x"
    (row,) = (await entries(queue, "workflow/signal/")).values()
    assert decode_signal(row) == Buffered(b"y")


async def test_chance_and_time_are_the_same_in_every_replay(
    queue: Queue, mock_clock: MockClock
) -> None:
    seen: dict[str, set[object]] = {}

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> None:
        async def branch(name: str) -> None:
            for number in range(2):
                picture = (ctx.random().random(), ctx.uuid4(), ctx.now())
                seen.setdefault(f"{ctx.run_id}{name}{number}", set()).add(picture)
                await ctx.sleep(10)

        await branch("root")
        await ctx.gather(branch("left"), branch("right"))

    async with running(queue, w) as runtime:
        handles = [await runtime.start_with(options(run_id), w) for run_id in ("a", "b")]
        await mock_clock.advance(60)
        for handle in handles:
            await result_of(handle)
    assert len(seen) == 12
    assert all(len(pictures) == 1 for pictures in seen.values())
    assert len(set().union(*seen.values())) == 12


async def test_a_signal_that_comes_while_the_program_stops_waits_for_the_next(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="waits")
    async def waits(ctx: WorkflowContext) -> bytes:
        return await ctx.wait_signal("k")

    async with running(queue, waits) as runtime:
        handle = await runtime.start_with(ID, waits)
        await settled(mock_clock, runtime)
        # A turn that begins in this moment.
        runtime._running_turns.stop()
        assert await runtime.signal("k", b"hello") is SignalOutcome.DELIVERED
        status = await settled(mock_clock, runtime)
        assert status.last_error == "the program stops"
        assert await runtime.parked() == []
        runtime._running_turns.go_on()
        await mock_clock.advance(1)
        assert await result_of(handle) == b"hello"
