"""Signals, which are durable in both directions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue, TaqubaError
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    MAX_SIGNAL_SIZE,
    Continue,
    Fail,
    OnSignal,
    RunSpec,
    RunState,
    SignalOutcome,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from tests.workflow.support import EAGER, Runs, entries, finish, fresh_url, status_of


class Waits(Runs):
    """Waits once for the signal that its input names; the result tells what came."""

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(self._wait)
        self._timeout = timeout
        self.seen: list[tuple[str, bytes | None]] = []

    async def _wait(self, step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"after", OnSignal(step.payload.decode(), self._timeout))
        assert step.payload == b"after"
        self.seen.append((step.run_id, step.signal))
        return Succeed(repr(step.signal).encode()[:100])


async def no_signal_rows(queue: Queue) -> bool:
    return not await entries(queue, "workflow/signal/")


async def test_a_waiting_run_goes_on_with_the_signal(queue: Queue, mock_clock: MockClock) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="r"))
        await mock_clock.advance(10**6)
        status = await status_of(runtime, "r")
        assert (status.state, status.signal_keys) == (RunState.WAITING, ("k",))
        assert (await queue.stats("workflow")).claimed == 0
        assert await runtime.signal("k", b"go") is SignalOutcome.DELIVERED
        (status,) = await finish(runtime, "r")
    assert status.result == b"b'go'"
    assert await no_signal_rows(queue)


async def test_a_signal_that_comes_first_is_kept_for_the_next_that_waits(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        assert await runtime.signal("k", b"early") is SignalOutcome.BUFFERED
        await runtime.submit(RunSpec(b"k", run_id="first"))
        (status,) = await finish(runtime, "first")
        assert status.result == b"b'early'"
        assert await no_signal_rows(queue)
        await runtime.submit(RunSpec(b"k", run_id="second"))
        await mock_clock.advance(0)
        assert (await status_of(runtime, "second")).state is RunState.WAITING


async def test_one_signal_per_key_is_kept_the_newest(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        for payload in (b"1", b"2", b"3"):
            assert await runtime.signal("k", payload) is SignalOutcome.BUFFERED
        await runtime.submit(RunSpec(b"k", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.result == b"b'3'"
    assert await no_signal_rows(queue)


async def test_a_kept_signal_can_be_cleared_and_a_waiter_cannot(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        await runtime.signal("k", b"1")
        assert await runtime.clear_signal("k")
        assert not await runtime.clear_signal("k")
        await runtime.submit(RunSpec(b"k", run_id="r"))
        await mock_clock.advance(0)
        assert not await runtime.clear_signal("k")
        assert await runtime.signal("k", b"2") is SignalOutcome.DELIVERED
        await finish(runtime, "r")


async def test_a_wait_ends_without_a_signal_when_time_runs_out(
    queue: Queue, mock_clock: MockClock
) -> None:
    runner = Waits(timeout=60)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="r"))
        await mock_clock.advance(59)
        status = await status_of(runtime, "r")
        assert status.state is RunState.WAITING
        assert status.starts_at is not None
        await mock_clock.advance(1)
        (status,) = await finish(runtime, "r")
        assert status.result == b"None"
        assert await no_signal_rows(queue)
        # Too late for this one: it is kept.
        assert await runtime.signal("k", b"late") is SignalOutcome.BUFFERED


async def test_a_wait_for_no_time_takes_what_is_there(queue: Queue) -> None:
    async with WorkflowRuntime(queue, Waits(timeout=0)) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="none"))
        (none,) = await finish(runtime, "none")
        await runtime.signal("k", b"1")
        await runtime.submit(RunSpec(b"k", run_id="one"))
        (one,) = await finish(runtime, "one")
    assert (none.result, one.result) == (b"None", b"b'1'")
    assert await no_signal_rows(queue)


@pytest.mark.parametrize("buffered", [True, False])
async def test_a_woken_step_sees_the_same_signal_in_every_attempt(
    open_queue: OpenQueue, mock_clock: MockClock, buffered: bool
) -> None:
    queue = await open_queue()
    seen: list[bytes | None] = []

    async def run(step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"", OnSignal("k"))
        seen.append(step.signal)
        if step.attempts < 3:
            raise ValueError
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        if buffered:
            await runtime.signal("k", b"first")
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(0)
        if not buffered:
            await runtime.signal("k", b"first")
            await mock_clock.advance(0)
        # While it waits for its retry: that is no wait for a signal.
        assert (await status_of(runtime, "r")).state is RunState.SLEEPING
        assert await runtime.signal("k", b"second") is SignalOutcome.BUFFERED
        await mock_clock.advance(60)
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED
    assert seen == [b"first"] * 3
    assert set(await entries(queue, "workflow/signal/")) == {"workflow/signal/workflow/k"}


async def test_a_step_without_a_signal_gets_none_in_later_attempts_either(
    queue: Queue, mock_clock: MockClock
) -> None:
    seen: list[bytes | None] = []

    async def run(step: Step) -> StepOutcome:
        if step.step_number == 0:
            return Continue(b"", OnSignal("k", 5))
        seen.append(step.signal)
        if step.attempts == 1:
            raise ValueError
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(5)
        assert seen == [None]
        assert await runtime.signal("k", b"late") is SignalOutcome.BUFFERED
        await mock_clock.advance(60)
        await finish(runtime, "r")
    assert seen == [None, None]


async def test_one_run_at_a_time_waits_for_a_key(queue: Queue, mock_clock: MockClock) -> None:
    async with WorkflowRuntime(queue, Waits()) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="first"))
        await mock_clock.advance(0)
        await runtime.submit(RunSpec(b"k", run_id="second"))
        (second,) = await finish(runtime, "second")
        assert second.state is RunState.FAILED
        assert "run 'first' already waits for the signal 'k'" in (second.reason or "")
        assert await runtime.signal("k", b"go") is SignalOutcome.DELIVERED
        (first,) = await finish(runtime, "first")
    assert first.result == b"b'go'"
    assert await no_signal_rows(queue)


async def test_a_run_may_wait_for_the_same_key_again_and_again(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def run(step: Step) -> StepOutcome:
        got = step.payload + (step.signal or b"")
        return Succeed(got) if step.step_number == 5 else Continue(got, OnSignal("k"))

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        for payload in (b"1", b"2", b"3", b"4", b"5"):
            await mock_clock.advance(0)
            assert await runtime.signal("k", payload) is SignalOutcome.DELIVERED
        (status,) = await finish(runtime, "r")
    assert status.result == b"12345"
    assert await no_signal_rows(queue)


async def test_steps_that_wait_for_each_others_keys_do_not_block_each_other(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        ours, theirs = ("a", "b") if step.run_id == "ab" else ("b", "a")
        if step.step_number == 20:
            return Succeed()
        return Continue(b"", OnSignal(ours if step.step_number % 2 else theirs, 3600))

    runner = Runs(run)
    async with WorkflowRuntime(queue, runner) as runtime:
        for run_id in ("ab", "ba"):
            await runtime.submit(RunSpec(b"", run_id=run_id))
        async with asyncio.timeout(30):
            while not all(
                [(await status_of(runtime, run_id)).state.ended for run_id in ("ab", "ba")]
            ):
                await asyncio.gather(runtime.signal("a"), runtime.signal("b"))


@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_signal_while_the_step_decides_to_wait_is_neither_lost_nor_doubled(
    queue: Queue, mock_clock: MockClock, turns: int
) -> None:
    runner = Waits()
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="r"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await runtime.signal("k", b"go")
        (status,) = await finish(runtime, "r")
        assert status.result == b"b'go'"
        await runtime.submit(RunSpec(b"k", run_id="next"))
        await mock_clock.advance(0)
        assert (await status_of(runtime, "next")).state is RunState.WAITING
    assert runner.seen == [("r", b"go")]


@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_signal_at_the_moment_of_the_time_out_is_delivered_or_kept(
    queue: Queue, mock_clock: MockClock, turns: int
) -> None:
    runner = Waits(timeout=60)
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.submit(RunSpec(b"k", run_id="r"))
        await mock_clock.advance(59)

        async def send() -> SignalOutcome:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await runtime.signal("k", b"go")

        sent, _ = await asyncio.gather(send(), mock_clock.advance(1))
        (status,) = await finish(runtime, "r")
        if sent is SignalOutcome.DELIVERED:
            assert status.result == b"b'go'"
            assert await no_signal_rows(queue)
        else:
            assert status.result == b"None"
            assert await runtime.clear_signal("k")


@pytest.mark.parametrize("delivered", [True, False])
async def test_signals_and_waits_survive_the_end_of_the_process(
    open_queue: OpenQueue, mock_clock: MockClock, delivered: bool
) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=EAGER)
    if delivered:
        # It waits; another process sends.
        async with WorkflowRuntime(queue, Waits()) as runtime:
            await runtime.submit(RunSpec(b"k", run_id="r"))
            await mock_clock.advance(0)
        await queue.close()
        queue = await open_queue(url)
        runtime = WorkflowRuntime(queue, Waits())
        assert await runtime.signal("k", b"go") is SignalOutcome.DELIVERED
    else:
        runtime = WorkflowRuntime(queue, Waits())
        assert await runtime.signal("k", b"go") is SignalOutcome.BUFFERED
        await runtime.submit(RunSpec(b"k", run_id="r"))
    await queue.close()
    queue = await open_queue(url)
    async with WorkflowRuntime(queue, Waits()) as runtime:
        (status,) = await finish(runtime, "r")
    assert status.result == b"b'go'"
    assert await no_signal_rows(queue)


async def test_a_run_that_fails_after_its_wait_leaves_no_row(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        return Fail("no") if step.step_number else Continue(b"", OnSignal("k", 0))

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
    assert await no_signal_rows(queue)


async def test_the_largest_signal_is_delivered_and_kept(
    queue: Queue, mock_clock: MockClock
) -> None:
    large = bytes(MAX_SIGNAL_SIZE)
    key = "k" * 1024
    runner = Waits()
    async with WorkflowRuntime(queue, runner) as runtime:
        await runtime.signal(key, large)
        await runtime.submit(RunSpec(key.encode(), run_id="kept"))
        await finish(runtime, "kept")
        await runtime.submit(RunSpec(key.encode(), run_id="delivered"))
        await mock_clock.advance(0)
        await runtime.signal(key, large)
        await finish(runtime, "delivered")
    assert runner.seen == [("kept", large), ("delivered", large)]


BAD: dict[str, tuple[tuple[Any, ...], type[TaqubaError], str]] = {
    "empty key": (("",), InvalidArgument, "1 to 1024"),
    "long key": (("x" * 1025,), InvalidArgument, "1 to 1024.*1025"),
    "key of bytes": ((b"k",), InvalidArgumentType, "a str"),
    "surrogate": (("\ud800",), InvalidArgument, "UTF-8"),
    "payload of str": (("k", "go"), InvalidArgumentType, "payload must be bytes"),
    "large payload": (("k", bytes(MAX_SIGNAL_SIZE + 1)), InvalidArgument, "at most"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
async def test_bad_signals_are_refused(
    queue: Queue, case: tuple[tuple[Any, ...], type[TaqubaError], str]
) -> None:
    arguments, kind, message = case
    runtime = WorkflowRuntime(queue, Waits())
    with pytest.raises(kind, match=message):
        await runtime.signal(*arguments)
    if len(arguments) == 1:
        with pytest.raises(kind, match=message):
            await runtime.clear_signal(*arguments)
        with pytest.raises(kind, match=message):
            OnSignal(*arguments)
    with pytest.raises(InvalidArgument, match="timeout"):
        OnSignal("k", -1)
