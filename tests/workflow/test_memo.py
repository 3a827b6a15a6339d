"""What steps remember, and when it is forgotten."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from taquba import InvalidArgument, InvalidArgumentType, ObjectDamaged, Queue, TaqubaError
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    After,
    Cancel,
    Continue,
    InputMismatch,
    RunSpec,
    RunState,
    Step,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)
from taquba_workflow._retention import Retention
from tests.crash.held_engine import hold_engine
from tests.payloads.support import damage, put_right
from tests.workflow.support import EAGER, Runs, entries, finish, status_of

SIZES = [0, 1, 65_536, 65_537, 1_000_000]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def objects(queue: Queue) -> list[str]:
    return [info.key async for info in queue.objects.list()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_later_attempt_finds_what_an_earlier_one_put(
    open_queue: OpenQueue, size: int
) -> None:
    queue = await open_queue(default_config=EAGER)
    found: list[tuple[bytes | None, bytes | None]] = []

    async def run(step: Step) -> StepOutcome:
        found.append((await step.memo.get("k"), await step.memo.content_get({"a": [1, "x"]})))
        await step.memo.put("k", content(size))
        await step.memo.content_put({"a": [1, "x"]}, content(size) + b"!")
        if step.attempts == 1:
            raise ValueError
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
    assert found == [(None, None), (content(size), content(size) + b"!")]


async def test_a_memo_belongs_to_one_step_of_one_run(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        assert await step.memo.get("k") is None
        assert await step.memo.content_get("k") is None
        await step.memo.put("k", b"1")
        await step.memo.content_put("k", b"2")
        assert await step.memo.get("k") == b"1"
        assert await step.memo.content_get("k") == b"2"
        return Continue(b"") if step.step_number < 2 else Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        for run_id in ("a", "b"):
            await runtime.submit(RunSpec(b"", run_id=run_id))
        for status in await finish(runtime, "a", "b"):
            assert status.state is RunState.SUCCEEDED, status


async def test_a_memo_can_be_replaced_by_one_of_another_size(queue: Queue) -> None:
    async def run(step: Step) -> StepOutcome:
        for size in (*SIZES, *reversed(SIZES)):
            await step.memo.put("k", content(size))
            assert await step.memo.get("k") == content(size)
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED, status


async def test_contents_are_the_same_if_their_messagepack_is(queue: Queue) -> None:
    distinct: list[object] = [None, 0, 1, 1.5, "1", b"1", [1], [[1]], {"1": 1}, {"1": [1]}, True]

    async def run(step: Step) -> StepOutcome:
        for value in distinct:
            assert await step.memo.content_get(value) is None
            await step.memo.content_put(value, repr(value).encode())
        for value in distinct:
            assert await step.memo.content_get(value) == repr(value).encode()
        assert await step.memo.content_get((1,)) == b"[1]"
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED, status


async def test_memos_share_commits(queue: Queue) -> None:
    held = hold_engine(queue)

    async def run(step: Step) -> StepOutcome:
        await asyncio.gather(*(step.memo.put(f"{n}", b"x") for n in range(100)))
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
    assert held.calls["write"] < 20


BAD: dict[str, tuple[str, tuple[Any, ...], type[TaqubaError], str]] = {
    "empty key": ("put", ("", b""), InvalidArgument, "1 to 1024"),
    "long key": ("get", ("x" * 1025,), InvalidArgument, "1 to 1024.*1025"),
    "key of bytes": ("get", (b"k",), InvalidArgumentType, "must be a str"),
    "value of str": ("put", ("k", "v"), InvalidArgumentType, "value must be bytes, not str"),
    "content of str": ("content_put", ("k", "v"), InvalidArgumentType, "value must be bytes"),
    "unpackable": ("content_get", (object(),), InvalidArgumentType, "MessagePack.*object"),
    "too large an int": ("content_get", (2**70,), InvalidArgumentType, "MessagePack.*int"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
async def test_bad_memos_are_refused(
    queue: Queue, case: tuple[str, tuple[Any, ...], type[TaqubaError], str]
) -> None:
    method, arguments, kind, message = case

    async def run(step: Step) -> StepOutcome:
        with pytest.raises(kind, match=message):
            await getattr(step.memo, method)(*arguments)
        return Succeed()

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        (status,) = await finish(runtime, "r")
    assert status.state is RunState.SUCCEEDED, status


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"x" + data[1:]])
async def test_a_large_memo_that_is_damaged_is_not_handed_out(
    open_queue: OpenQueue, change: Any
) -> None:
    queue = await open_queue(default_config=EAGER)
    found: list[object] = []

    async def run(step: Step) -> StepOutcome:
        await step.memo.put("k", content(100_000))
        before = await damage(queue, "/objects/", change)
        with pytest.raises(ObjectDamaged):
            await step.memo.get("k")
        await put_right(queue, before)
        found.append(await step.memo.get("k"))
        return Succeed(content(100_000))

    async with WorkflowRuntime(queue, Runs(run)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        assert found == [content(100_000)]
        await damage(queue, "/objects/", change)
        with pytest.raises(ObjectDamaged):
            await runtime.status("r")


# -- retention ----------------------------------------------------------------------------------


async def remember(step: Step) -> StepOutcome:
    await step.memo.put("small", b"x")
    await step.memo.put("large", content(100_000))
    await step.memo.content_put("x", content(100_000))
    return Succeed(content(100_000)) if step.step_number else Continue(b"")


async def test_a_run_and_all_that_it_remembers_go_when_they_are_old(
    queue: Queue, mock_clock: MockClock
) -> None:
    day = timedelta(days=1)
    async with WorkflowRuntime(queue, Runs(remember), memo_retention=day) as runtime:
        await runtime.submit(RunSpec(b"1", run_id="early"))
        await finish(runtime, "early")
        await mock_clock.advance(day / 2)
        await runtime.submit(RunSpec(b"1", run_id="late"))
        await finish(runtime, "late")
        await mock_clock.advance(day / 2 - timedelta(seconds=1))
        assert await runtime.submit(RunSpec(b"1", run_id="early")) == ("early", False)
        assert len(await objects(queue)) == 10
        await mock_clock.advance(1)
        assert await runtime.status("early") is None
        assert (await status_of(runtime, "late")).state is RunState.SUCCEEDED
        assert not [key for key in await entries(queue) if "early" in key]
        assert not [key for key in await objects(queue) if "early" in key]
        assert len(await objects(queue)) == 5
        # The id is free again, for any input.
        assert await runtime.submit(RunSpec(b"2", run_id="early")) == ("early", True)
        with pytest.raises(InputMismatch):
            await runtime.submit(RunSpec(b"1", run_id="early"))
        await finish(runtime, "early")
        await mock_clock.advance(2 * day)
    assert await entries(queue) == {}
    assert await objects(queue) == []


async def test_without_retention_everything_stays_until_a_later_runtime_has_one(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with WorkflowRuntime(queue, Runs(remember)) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        await mock_clock.advance(timedelta(days=99))
        assert (await status_of(runtime, "r")).result == content(100_000)
    async with WorkflowRuntime(queue, Runs(remember), memo_retention=60) as runtime:
        await mock_clock.advance(0)
        assert await runtime.status("r") is None
    assert await entries(queue) == {}


async def test_runs_that_go_on_are_not_forgotten(queue: Queue, mock_clock: MockClock) -> None:
    async def run(step: Step) -> StepOutcome:
        await step.memo.put("k", b"x")
        return Continue(b"", After(timedelta(days=30))) if not step.step_number else Succeed()

    async with WorkflowRuntime(queue, Runs(run), memo_retention=1) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await mock_clock.advance(timedelta(days=29))
        assert (await status_of(runtime, "r")).state is RunState.SLEEPING
        assert len(await entries(queue, "workflow/memo/")) == 1
        await mock_clock.advance(timedelta(days=1, seconds=2))
        assert await runtime.status("r") is None
    assert await entries(queue) == {}


async def test_a_run_that_is_cancelled_while_it_waits_is_forgotten_in_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with WorkflowRuntime(queue, Runs(remember), memo_retention=60) as runtime:
        spec = RunSpec(b"", run_id="r", run_at=mock_clock.now() + timedelta(hours=1))
        await runtime.submit(spec)
        assert await runtime.cancel("r")
        await mock_clock.advance(59)
        assert await runtime.status("r") is not None
        await mock_clock.advance(1)
        assert await runtime.status("r") is None


async def test_a_sweep_reads_only_what_is_old(queue: Queue, mock_clock: MockClock) -> None:
    async def run(step: Step) -> StepOutcome:
        return Cancel("enough")

    async with WorkflowRuntime(queue, Runs(run), memo_retention=1000) as runtime:
        for n in range(20):
            await runtime.submit(RunSpec(b"", run_id=f"old{n}"))
        await finish(runtime, *(f"old{n}" for n in range(20)))
        await mock_clock.advance(500)
        for n in range(200):
            await runtime.submit(RunSpec(b"", run_id=f"new{n}"))
        await finish(runtime, *(f"new{n}" for n in range(200)))
        held = hold_engine(queue)
        await mock_clock.advance(500)
        left = len(await entries(queue, "workflow/run/"))
        # Of each old run its row, and the comparison when it is deleted.
        assert (left, held.calls["get"]) == (200, 40)


async def test_a_sweep_that_was_interrupted_is_gone_on_with(
    queue: Queue, mock_clock: MockClock
) -> None:
    """Whichever of a run's rows are gone already, the others go; a new run's stay."""
    async with WorkflowRuntime(queue, Runs(remember)) as runtime:
        for run_id in ("row", "memos", "again"):
            await runtime.submit(RunSpec(b"", run_id=run_id))
        await finish(runtime, "row", "memos", "again")
    # The sweep ended in the middle of the memos, or when all but the last entry was gone.
    for key in await entries(queue, "workflow/memo/workflow/"):
        if "/memos/" not in key or "/large" in key:
            await queue.kv_delete(key)
    await queue.objects.delete([key for key in await objects(queue) if "/memos/" not in key])
    for run_id in ("row", "again"):
        await queue.kv_delete(f"workflow/run/workflow/{run_id}")
    await mock_clock.advance(60)
    async with WorkflowRuntime(queue, Runs(remember)) as runtime:
        await runtime.submit(RunSpec(b"other", run_id="again"))
        await finish(runtime, "again")
    async with WorkflowRuntime(queue, Runs(remember), memo_retention=60) as runtime:
        await mock_clock.advance(0)
        assert (await status_of(runtime, "again")).state is RunState.SUCCEEDED
        assert len(await entries(queue, "workflow/memo/workflow/again/")) == 6
        assert await runtime.status("memos") is None
        assert len(await entries(queue, "workflow/expiry/")) == 1
        await mock_clock.advance(61)
    assert await entries(queue) == {}
    assert await objects(queue) == []


async def test_a_slow_sweep_leaves_alone_the_next_run_with_the_id(
    queue: Queue, mock_clock: MockClock
) -> None:
    """Several processes may sweep, and one may go on when another has freed the id."""
    async with WorkflowRuntime(queue, Runs(remember), memo_retention=60) as runtime:
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        key = "workflow/run/workflow/r"
        row = await queue.kv_get(key)
        assert row is not None
        listed = await entries(queue, "workflow/memo/")
        await mock_clock.advance(61)
        assert await entries(queue) == {}
        await runtime.submit(RunSpec(b"", run_id="r"))
        await finish(runtime, "r")
        before = await entries(queue)
        assert listed.keys() <= before.keys()
        slow = Retention(queue, "workflow", mock_clock, 60_000)
        await slow._forget_memos("r", key, row)
        # What it had listed, if it had looked at the run's row before.
        assert not any([await queue.kv_compare_delete(*entry) for entry in listed.items()])
        assert await entries(queue) == before
