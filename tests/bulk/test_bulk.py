"""Batches that run to their end in one process: results, keys, failures, costs, streaming."""

from __future__ import annotations

import asyncio
import codecs
import functools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import length_hint
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from taquba import InvalidArgument, InvalidArgumentType, PermanentFailure, Queue, Snooze
from taquba.testing import MockClock, OpenQueue
from taquba_bulk import (
    Bulk,
    BulkContext,
    DuplicateKey,
    FailureThresholdExceeded,
    ItemStatus,
    JsonlSink,
    NullSink,
    PaidCall,
    read_jsonl,
)
from taquba_workflow import InputMismatch, StepError
from tests.bulk.support import EAGER, REAL_SECONDS, async_inputs, rows_of, until
from tests.worker.support import Panic


async def double(ctx: BulkContext[int]) -> int:
    return 2 * ctx.input


class Document(BaseModel):
    name: str
    when: datetime


@dataclass
class Summary:
    title: str
    parts: tuple[int, ...]


async def summarize(ctx: BulkContext[Document]) -> Summary:
    assert isinstance(ctx.input, Document)
    return Summary(ctx.input.name.upper(), (1, ctx.input.when.year))


# -- inputs and outputs ---------------------------------------------------------------------------


async def test_every_input_has_its_row(queue: Queue, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    report = await Bulk(queue, double, output=JsonlSink(out), key=str).run(range(1000))
    assert (report.total, report.succeeded, report.failed) == (1000, 1000, 0)
    assert report.complete
    assert rows_of(out) == [
        {"index": n, "key": str(n), "status": "succeeded", "output": 2 * n, "cost": {}}
        for n in range(1000)
    ]


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201])
async def test_async_inputs_are_read_to_their_end(queue: Queue, count: int) -> None:
    report = await Bulk(queue, double).run(async_inputs(range(count)))
    assert (report.total, report.succeeded, report.complete) == (count, count, True)


async def test_inputs_and_outputs_are_of_the_types_annotated(queue: Queue, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    bulk = Bulk(queue, summarize, output=JsonlSink(out))
    documents = [Document(name="a", when=datetime(2030, 1, 1, tzinfo=UTC))]
    async with aclosing(bulk.stream(documents)) as records:
        outputs = [record.output async for record in records]
    assert outputs == [Summary("A", (1, 2030))]
    assert rows_of(out)[0]["output"] == {"title": "A", "parts": [1, 2030]}


async def test_a_pipeline_may_be_an_object(queue: Queue) -> None:
    class Adds:
        def __init__(self, term: int) -> None:
            self._term = term

        async def run(self, ctx: BulkContext[int]) -> int:
            return ctx.input + self._term

    async with aclosing(Bulk(queue, Adds(5)).stream([1, 2])) as records:
        assert sorted([record.output or 0 async for record in records]) == [6, 7]


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


async def test_a_pipeline_and_its_phases_may_be_under_plain_decorators(queue: Queue) -> None:
    @timed
    async def phase() -> int:
        return 3

    @timed
    async def pipeline(ctx: BulkContext[int]) -> int:
        return ctx.input * await ctx.memoized("phase", phase, type=int)

    async with aclosing(Bulk(queue, pipeline).stream([2])) as records:
        assert [record.output async for record in records] == [6]


async def summarize_parts(parts: int, ctx: BulkContext[Document]) -> Summary:
    return Summary(ctx.input.name, tuple(range(parts)))


some_parts = functools.partial(summarize_parts, 2)


@pytest.mark.parametrize("pipeline", [some_parts, timed(some_parts), functools.partial(some_parts)])
async def test_a_pipeline_with_some_arguments_given_has_its_types(
    queue: Queue, pipeline: Any
) -> None:
    documents = [Document(name="a", when=datetime(2030, 1, 1, tzinfo=UTC))]
    async with aclosing(Bulk[Any, Any](queue, pipeline).stream(documents)) as records:
        assert [record.output async for record in records] == [Summary("a", (0, 1))]


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": 1}\r\n2\r\n')
    assert list(read_jsonl(path)) == [{"a": 1}, 2]


async def test_a_pipeline_without_annotations_gets_plain_data(queue: Queue) -> None:
    async def same(ctx):  # type: ignore[no-untyped-def]
        return ctx.input

    values: list[Any] = [None, 1, "a", [1, 2], {"a": b"b"}]
    async with aclosing(Bulk(queue, same).stream(values)) as records:
        found = {record.index: record.output async for record in records}
    assert [found[n] for n in range(len(values))] == values


async def test_the_context_tells_about_the_item(queue: Queue) -> None:
    seen: list[tuple[str, str, int]] = []

    async def look(ctx: BulkContext[str]) -> None:
        seen.append((ctx.run_id, ctx.headers["who"], ctx.attempt))
        assert not ctx.cancel_token.cancelled
        ctx.lease.ensure_at_least(60)

    await Bulk(queue, look, key=lambda value: value, headers={"who": "me"}).run(["a b", "c"])
    assert seen[1] == ("c", "me", 1)
    assert seen[0][0].startswith("sha256-")


async def test_a_slow_source_is_not_waited_for_to_fill_a_chunk(queue: Queue) -> None:
    first = asyncio.Event()

    async def source() -> Any:
        yield 1
        await first.wait()
        yield 2

    async def work(ctx: BulkContext[int]) -> None:
        first.set()

    async with asyncio.timeout(30):
        assert (await Bulk(queue, work).run(source())).succeeded == 2


async def test_inputs_are_read_no_faster_than_items_end(queue: Queue) -> None:
    read = 0
    gate = asyncio.Event()

    def source() -> Iterator[int]:
        nonlocal read
        for n in range(1000):
            read = n + 1
            yield n

    async def wait(ctx: BulkContext[int]) -> None:
        await gate.wait()

    bulk = Bulk(queue, wait, max_concurrent=10)
    running = asyncio.create_task(bulk.run(source()))
    await until(lambda: bulk.progress().in_flight >= 10)
    await asyncio.sleep(0.1)
    assert read <= 400
    gate.set()
    assert (await running).succeeded == 1000


async def test_an_error_of_the_source_ends_the_batch_once_running_items_have_ended(
    queue: Queue,
) -> None:
    started, gate, ended = asyncio.Event(), asyncio.Event(), 0

    async def source() -> Any:
        yield 1
        await started.wait()
        raise OSError("the disk")

    async def work(ctx: BulkContext[int]) -> None:
        nonlocal ended
        started.set()
        await gate.wait()
        ended += 1

    running = asyncio.create_task(Bulk(queue, work).run(source()))
    await started.wait()
    gate.set()
    with pytest.raises(OSError, match="the disk"):
        await running
    assert ended == 1


# -- keys -----------------------------------------------------------------------------------------


async def test_equal_inputs_are_numbered(queue: Queue, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    report = await Bulk(queue, double, output=JsonlSink(out)).run([7, 8, 7, 7])
    assert report.succeeded == 4
    keys = [row["key"] for row in rows_of(out)]
    assert keys == [keys[0], keys[1], f"{keys[0]}-2", f"{keys[0]}-3"]


async def test_a_key_that_comes_twice_is_refused(queue: Queue) -> None:
    with pytest.raises(DuplicateKey, match=r"inputs 1 and 3 .* same key 'b'"):
        await Bulk(queue, double, key=lambda n: "abcb"[n]).run(range(4))


async def test_the_same_key_for_another_input_is_refused(queue: Queue) -> None:
    await Bulk(queue, double, key=lambda _: "k").run([1])
    with pytest.raises(InputMismatch, match="'k'"):
        await Bulk(queue, double, key=lambda _: "k").run([2])


async def test_a_batch_can_be_stopped_while_keys_are_made(queue: Queue) -> None:
    def slow(value: int) -> str:
        time.sleep(0.001)
        return str(value)

    for number in range(6):
        shutdown = anyio.Event()
        asyncio.get_running_loop().call_later(0.05 + 0.037 * number, shutdown.set)
        bulk = Bulk(queue, double, key=slow, queue_name=f"bulk-{number}")
        assert not (await bulk.run(range(100_000), shutdown)).complete


@pytest.mark.parametrize(
    ("key", "error"),
    [(3, InvalidArgumentType), ("", InvalidArgument), ("\ud800", InvalidArgument)],
)
async def test_what_can_be_no_key_is_refused(
    queue: Queue, key: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="input 0"):
        await Bulk(queue, double, key=lambda _: key).run([1])
    assert await queue.list_queues() == []


async def test_an_input_that_does_not_fit_is_named(queue: Queue) -> None:
    with pytest.raises(InvalidArgument, match=r"input 2 \(counted from 0\).*'x'"):
        await Bulk(queue, double).run([1, 2, "x"])  # type: ignore[list-item]


# -- failures -------------------------------------------------------------------------------------


async def test_an_item_is_tried_until_its_attempts_are_used_up(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    queue = await open_queue(default_config=EAGER)
    tries: Counter[int] = Counter()

    async def fails(ctx: BulkContext[int]) -> int:
        tries[ctx.input] += 1
        if ctx.input == 1 or ctx.attempt < 3:
            raise ValueError(f"no {ctx.input}")
        return ctx.input

    out = tmp_path / "out.jsonl"
    report = await Bulk(queue, fails, output=JsonlSink(out), key=str).run(range(3))
    assert (report.succeeded, report.failed, report.failed_run_ids) == (2, 1, ("1",))
    assert tries == {0: 3, 1: 3, 2: 3}
    assert rows_of(out)[1] == {
        "index": 1,
        "key": "1",
        "status": "failed",
        "error": "ValueError: no 1",
        "cost": {},
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermanentFailure("never"), "never"),
        (StepError.permanent("never"), "never"),
        (InvalidArgument("never"), "InvalidArgument: never"),
    ],
)
async def test_what_no_retry_helps_fails_at_once(
    queue: Queue, error: Exception, reason: str
) -> None:
    tries = 0

    async def fails(ctx: BulkContext[int]) -> None:
        nonlocal tries
        tries += 1
        raise error

    async with aclosing(Bulk(queue, fails).stream([1])) as records:
        [record] = [record async for record in records]
    assert (record.status, record.error, tries) == (ItemStatus.FAILED, reason, 1)


async def test_what_is_raised_beside_exceptions_is_an_error_of_the_item_too(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=EAGER)
    tries: Counter[int] = Counter()

    async def panics(ctx: BulkContext[int]) -> None:
        tries[ctx.input] += 1
        if ctx.input == 1 or ctx.attempt < 2:
            raise Panic("index out of bounds")

    async with aclosing(Bulk(queue, panics).stream([0, 1])) as records:
        errors = sorted([str(record.error) async for record in records])
    assert errors == ["None", "Panic: index out of bounds"]
    assert tries == {0: 2, 1: 3}


def nested(depth: int) -> object:
    found: object = 1
    for _ in range(depth):
        found = [found]
    return found


async def test_an_output_that_no_row_can_hold_fails_its_item(queue: Queue, tmp_path: Path) -> None:
    async def deep(ctx: BulkContext[int]) -> object:
        return nested(ctx.input)

    out = tmp_path / "out.jsonl"
    report = await Bulk(queue, deep, output=JsonlSink(out)).run([0, 250, 253, 254, 255, 300])
    rows = rows_of(out)
    assert (report.succeeded, report.failed, len(rows)) == (3, 3, 6)
    assert rows[2]["output"] == nested(253)
    assert all("cannot be written as JSON" in row["error"] for row in rows[3:])


async def test_an_output_that_is_not_what_is_annotated_fails_its_item(queue: Queue) -> None:
    async def lies(ctx: BulkContext[int]) -> int:
        return "x" if ctx.input else 5  # type: ignore[return-value]

    report = await Bulk(queue, lies).run(range(2))
    assert (report.succeeded, report.failed) == (1, 1)


async def test_snoozing_spends_no_attempt(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(default_config=EAGER)
    attempts: list[int] = []

    async def later(ctx: BulkContext[int]) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 5:
            raise Snooze(60)

    running = asyncio.create_task(Bulk(queue, later).run([1]))
    while not running.done():
        await asyncio.sleep(0.01)
        await mock_clock.advance(60)
    assert running.result().succeeded == 1
    assert attempts == [1] * 5


@pytest.mark.parametrize(
    ("threshold", "stops"), [(None, False), (9, True), (10, False), (0.09, True), (0.1, False)]
)
async def test_more_failures_than_allowed_stop_the_batch(
    queue: Queue, threshold: float | None, stops: bool
) -> None:
    async def fails(ctx: BulkContext[int]) -> None:
        if ctx.input % 10 == 0:
            raise PermanentFailure("no")

    bulk = Bulk(queue, fails, fail_threshold=threshold, max_concurrent=1)
    if not stops:
        assert (await bulk.run(range(100))).failed == 10
        return
    with pytest.raises(FailureThresholdExceeded) as caught:
        await bulk.run(range(100))
    assert caught.value.report.failed == 10
    # What has failed stays so; with a larger threshold the rest is done.
    report = await Bulk(queue, fails, fail_threshold=50).run(range(100))
    assert (report.succeeded, report.failed, report.complete) == (90, 10, True)


# -- phases and costs -----------------------------------------------------------------------------


async def test_a_phase_that_is_done_is_not_done_again(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    calls: Counter[str] = Counter()

    async def phases(ctx: BulkContext[int]) -> None:
        async def named() -> tuple[int, bytes]:
            calls["named"] += 1
            return ctx.input, b"\xff"

        async def by_content() -> Summary:
            calls["by content"] += 1
            return Summary("x", (1,))

        found: list[Any] = [await ctx.memoized("first", named)]
        found.append(await ctx.memoized_by_content({"a": [1]}, by_content, type=Summary))
        # Another content is another phase.
        await ctx.memoized_by_content({"a": [2]}, by_content, type=Summary)
        calls["attempts"] += 1
        if ctx.attempt < 3:
            raise ValueError
        assert found == [(5, b"\xff"), Summary("x", (1,))]

    report = await Bulk(queue, phases).run([5])
    assert report.succeeded == 1
    assert calls == {"named": 1, "by content": 2, "attempts": 3}


async def test_costs_of_phases_are_remembered_with_them(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    queue = await open_queue(default_config=EAGER)

    async def priced(ctx: BulkContext[int]) -> None:
        async def inner() -> None:
            ctx.record_cost("usd", 0.1)

        async def outer() -> None:
            ctx.record_cost("usd", 1)
            await ctx.memoized("inner", inner)

        async def returns_cost() -> tuple[str, dict[str, float]]:
            return "x", {"tokens": 7}

        await asyncio.gather(
            ctx.memoized("outer", outer), ctx.memoized_with_cost("priced", returns_cost)
        )
        assert await ctx.memoized_by_content_with_cost(5, returns_cost) == "x"
        ctx.record_cost("usd", 10)
        if ctx.attempt < 3:
            raise ValueError

    out = tmp_path / "out.jsonl"
    report = await Bulk(queue, priced, output=JsonlSink(out)).run([1, 2])
    # Of the attempts that failed only what their phases cost is known.
    assert rows_of(out)[0]["cost"] == {"tokens": 14, "usd": 11.1}
    assert report.cost == {"tokens": 28, "usd": 22.2}


async def test_what_a_failed_item_cost_counts(queue: Queue, tmp_path: Path) -> None:
    async def fails(ctx: BulkContext[int]) -> None:
        ctx.record_cost("usd", 0.5)
        raise PermanentFailure("no")

    report = await Bulk(queue, fails, output=JsonlSink(tmp_path / "out")).run([1])
    assert report.cost == {"usd": 0.5}


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), 1e10, "1", None, True])
async def test_what_is_no_cost_is_refused(queue: Queue, amount: Any) -> None:
    async def wrong(ctx: BulkContext[int]) -> None:
        with pytest.raises((InvalidArgument, InvalidArgumentType), match="usd"):
            ctx.record_cost("usd", amount)

    assert (await Bulk(queue, wrong).run([1])).succeeded == 1


@pytest.mark.parametrize("value", [object(), lambda: 1])
async def test_a_phase_that_cannot_be_kept_fails_its_item_with_the_remedy(
    queue: Queue, value: object
) -> None:
    async def phases(ctx: BulkContext[int]) -> None:
        async def unstorable() -> object:
            return value

        await ctx.memoized("x", unstorable)

    async with aclosing(Bulk(queue, phases).stream([1])) as records:
        [record] = [record async for record in records]
    assert record.status is ItemStatus.FAILED
    assert "cannot be stored" in (record.error or "")


# -- streaming, progress, shutdown ----------------------------------------------------------------


async def test_a_stream_gives_every_record_also_of_items_that_had_ended(queue: Queue) -> None:
    ran: list[int] = []

    async def work(ctx: BulkContext[int]) -> int:
        ran.append(ctx.input)
        return ctx.input

    await Bulk(queue, work).run(range(3))
    async with aclosing(Bulk(queue, work).stream(range(5))) as records:
        found = sorted([(record.index, record.output) async for record in records])
    assert found == [(n, n) for n in range(5)]
    assert sorted(ran) == list(range(5))


async def test_a_stream_that_is_left_early_can_be_gone_on_with(
    queue: Queue, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    async with aclosing(Bulk(queue, double, output=JsonlSink(out)).stream(range(500))) as records:
        async for _ in records:
            break
    report = await Bulk(queue, double, output=JsonlSink(out)).run(range(500))
    assert report.succeeded == 500
    assert [row["output"] for row in rows_of(out)] == [2 * n for n in range(500)]


async def test_a_stream_is_not_ahead_of_its_consumer(queue: Queue) -> None:
    bulk = Bulk(queue, double, max_concurrent=5)
    async with aclosing(bulk.stream(range(2000))) as records:
        await anext(records)
        await asyncio.sleep(0.1)
        assert bulk.progress().done <= 500


async def test_shutdown_lets_running_items_end_and_starts_no_other(
    queue: Queue, tmp_path: Path
) -> None:
    shutdown, gate = anyio.Event(), asyncio.Event()
    ran: list[int] = []

    async def work(ctx: BulkContext[int]) -> int:
        ran.append(ctx.input)
        await gate.wait()
        return ctx.input

    out = tmp_path / "out.jsonl"
    bulk = Bulk(queue, work, output=JsonlSink(out), max_concurrent=3)
    running = asyncio.create_task(bulk.run(range(1000), shutdown))
    await until(lambda: len(ran) == 3)
    shutdown.set()
    await asyncio.sleep(0.01)
    gate.set()
    report = await running
    assert (report.succeeded, report.complete, len(ran)) == (3, False, 3)
    assert len(rows_of(out)) == 3
    report = await Bulk(queue, work, output=JsonlSink(out)).run(range(1000))
    assert (report.succeeded, report.resumed, report.complete) == (1000, 3, True)
    assert sorted(ran) == list(range(1000))


async def test_what_an_earlier_run_left_is_run_only_if_it_is_an_input_again(
    queue: Queue, mock_clock: MockClock
) -> None:
    started, ran = asyncio.Event(), list[int]()

    async def work(ctx: BulkContext[int]) -> None:
        if not started.is_set():
            started.set()
            await asyncio.sleep(3600)
        ran.append(ctx.input)

    bulk = Bulk(queue, work, max_concurrent=2)
    running = asyncio.create_task(bulk.run([1, 2, 3, 4, 5]))
    await started.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ran.clear()
    assert (await bulk.run(range(100, 400))).succeeded == 300
    assert sorted(ran) == list(range(100, 400))
    # It was put off for a second whenever it came up.
    await mock_clock.advance(1)
    assert (await bulk.run([5])).succeeded == 1


async def test_a_cancelled_batch_gives_its_items_back_unspent(queue: Queue) -> None:
    attempts: list[int] = []

    async def work(ctx: BulkContext[int]) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            await asyncio.sleep(3600)

    bulk = Bulk(queue, work)
    running = asyncio.create_task(bulk.run([1]))
    await until(lambda: len(attempts) == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await bulk.run([1])).succeeded == 1
    assert attempts == [1, 1]


async def test_an_item_can_be_cancelled(queue: Queue, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def work(ctx: BulkContext[int]) -> None:
        started.set()
        await ctx.cancel_token.wait()

    out = tmp_path / "out.jsonl"
    bulk = Bulk(queue, work, output=JsonlSink(out), key=str, max_concurrent=1)
    running = asyncio.create_task(bulk.run([1, 2]))
    await started.wait()
    while not (await queue.stats("bulk")).pending:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)
    # One waits, one runs.
    assert await bulk.cancel("2")
    assert await bulk.cancel("1")
    assert not await bulk.cancel("3")
    report = await running
    assert (report.cancelled, report.complete) == (2, True)
    assert not await bulk.cancel("1")
    assert [row["status"] for row in rows_of(out)] == ["cancelled"] * 2
    assert (await bulk.run([1, 2])).resumed == 2
    assert len(rows_of(out)) == 2


async def test_progress_tells_how_far_the_batch_is(queue: Queue, mock_clock: MockClock) -> None:
    gate = asyncio.Event()

    async def work(ctx: BulkContext[int]) -> None:
        ctx.record_cost("usd", 1)
        if ctx.input >= 10:
            await gate.wait()

    bulk = Bulk(queue, work)
    assert bulk.progress().done == 0
    running = asyncio.create_task(bulk.run(range(20)))
    await until(lambda: bulk.progress().done == 10)
    await mock_clock.advance(5)
    progress = bulk.progress()
    assert (progress.total, progress.in_flight, progress.succeeded) == (20, 10, 10)
    assert progress.cost == {"usd": 10}
    assert progress.rate == 2
    assert progress.eta is not None
    assert progress.eta.total_seconds() == 5
    gate.set()
    await running
    progress = bulk.progress()
    assert (progress.done, progress.in_flight) == (20, 0)
    assert progress.eta is not None
    assert progress.eta.total_seconds() == 0


async def test_two_batches_of_one_name_do_not_run_at_once(queue: Queue) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    async def work(ctx: BulkContext[int]) -> None:
        started.set()
        await gate.wait()

    running = asyncio.create_task(Bulk(queue, work).run([1]))
    await started.wait()
    with pytest.raises(InvalidArgument, match="'bulk' is already running"):
        await Bulk(queue, work).run([1])
    assert (await Bulk(queue, double, queue_name="other").run([1])).succeeded == 1
    gate.set()
    await running


# -- bad input ------------------------------------------------------------------------------------


def plain(ctx: BulkContext[int]) -> int:
    return 1


async def mistyped(ctx: BulkContext[Missing]) -> None:  # type: ignore[name-defined] # noqa: F821
    pass


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"pipeline": plain}, InvalidArgumentType, "async def"),
        ({"pipeline": 5}, InvalidArgumentType, "5"),
        ({"pipeline": mistyped}, InvalidArgument, "Missing"),
        ({"output": "out.jsonl"}, InvalidArgumentType, "JsonlSink"),
        ({"key": "id"}, InvalidArgumentType, "'id'"),
        ({"max_concurrent": 0}, InvalidArgument, "0"),
        ({"max_concurrent": 1.5}, InvalidArgumentType, "1.5"),
        ({"queue_name": ""}, InvalidArgument, "''"),
        ({"headers": {"workflow.x": "y"}}, InvalidArgument, "workflow.x"),
        ({"fail_threshold": -1}, InvalidArgument, "-1"),
        ({"fail_threshold": 1.0}, InvalidArgument, "1.0"),
        ({"fail_threshold": "5%"}, InvalidArgumentType, "5%"),
    ],
)
async def test_what_cannot_be_a_batch_is_refused(
    queue: Queue, arguments: dict[str, Any], error: type[Exception], told: str
) -> None:
    # The same test runs on the handle of a member, with the same arguments.
    with pytest.raises(error, match=told):
        Bulk(queue, **{"pipeline": double, **arguments})


@pytest.mark.parametrize("inputs", ["abc", b"abc", 5, None])
async def test_what_cannot_be_inputs_is_refused(queue: Queue, inputs: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=type(inputs).__name__):
        await Bulk(queue, double).run(inputs)


# -- files ----------------------------------------------------------------------------------------


async def test_lines_of_json_are_inputs(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"name": "a", "when": "2030-01-01T00:00:00Z"}\n\n', "utf-8")
    report = await Bulk(queue, summarize).run(read_jsonl(path, Document))
    assert report.succeeded == 1


async def test_a_line_that_does_not_fit_is_named(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"name": "a", "when": "2030-01-01T00:00:00Z"}\n{"name": 5}\n', "utf-8")
    with pytest.raises(InvalidArgument, match=r"in.jsonl, line 2: name: .*5.*; when"):
        await Bulk(queue, summarize).run(read_jsonl(path, Document))


@pytest.fixture
def pipe() -> Iterator[tuple[str, int]]:
    """A path to read a pipe by, and the descriptor to write to it, which the test closes."""
    reads, writes = os.pipe()
    yield f"/dev/fd/{reads}", writes
    os.close(reads)


async def test_lines_of_a_pipe_are_read_once(queue: Queue, pipe: tuple[str, int]) -> None:
    path, writes = pipe
    os.write(writes, b"1\n\n2\n3")
    os.close(writes)
    lines = read_jsonl(path, int)
    assert await asyncio.to_thread(length_hint, lines, -1) == -1
    assert (await Bulk(queue, double, output=NullSink()).run(lines)).succeeded == 3
    with pytest.raises(InvalidArgument, match="is a stream that was already read"):
        await Bulk(queue, double, output=NullSink()).run(lines)


async def test_a_line_of_a_pipe_is_worked_on_before_the_next_one_comes(
    queue: Queue, pipe: tuple[str, int]
) -> None:
    path, writes = pipe
    os.write(writes, b"1\n")
    found: list[int] = []
    bulk = Bulk(queue, double, output=NullSink())
    async with asyncio.timeout(REAL_SECONDS), aclosing(bulk.stream(read_jsonl(path, int))) as got:
        async for record in got:
            found.append(record.output or 0)
            if len(found) == 3:
                os.close(writes)
            else:
                os.write(writes, b"%d\n" % (len(found) + 1))
    assert found == [2, 4, 6]


async def test_a_batch_that_waits_for_a_pipe_can_be_stopped(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    os.mkfifo(path)
    before = set(threading.enumerate())
    shutdown = asyncio.Event()
    running = asyncio.create_task(Bulk(queue, double).run(read_jsonl(path, int), shutdown))
    await asyncio.sleep(0.05)
    shutdown.set()
    async with asyncio.timeout(REAL_SECONDS):
        assert not (await running).complete
    threads = [one for one in set(threading.enumerate()) - before if "AnyIO" in one.name]
    # An idle worker of anyio's ends with the loop; one that reads would hold up the program.
    await until(lambda: all(not _is_reading(thread) for thread in threads))


def _is_reading(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    names: list[str] = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "_wait" in names and "_take" in names


async def test_rows_cannot_go_into_a_pipe(queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    os.mkfifo(path)
    with pytest.raises(InvalidArgument, match="is a pipe"):
        await Bulk(queue, double, output=JsonlSink(path)).run([1])


def test_lines_can_be_read_more_than_once_and_tell_how_many_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"name": 5}\n[1]', "utf-8")
    lines = read_jsonl(path)
    assert list(lines) == list(lines) == [{"name": 5}, [1]]
    assert length_hint(lines) == 2


async def _nothing() -> None: ...


async def _paid(call: PaidCall) -> None: ...


REFUSED: dict[str, Callable[[BulkContext[int]], Awaitable[object]]] = {
    "memoized": lambda ctx: ctx.memoized("", _nothing),
    "memoized with cost": lambda ctx: ctx.memoized_with_cost("", _nothing),  # type: ignore[arg-type]
    "by content": lambda ctx: ctx.memoized_by_content(1, _nothing, ttl=1),
    "paid": lambda ctx: ctx.paid_call("", _paid),
    "rate": lambda ctx: ctx.acquire("none"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_pipeline_that_repeats_a_refused_call_lets_others_run(
    queue: Queue, what: str
) -> None:
    refused = 0
    stop = asyncio.Event()

    async def insist(ctx: BulkContext[int]) -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                await REFUSED[what](ctx)
            except BaseException:
                refused += 1

    running = asyncio.create_task(Bulk(queue, insist).run([1]))
    try:
        async with asyncio.timeout(10):
            await until(lambda: refused > 0)
            before = refused
            for _ in range(5):
                await asyncio.sleep(0)
            assert refused - before < 20
    finally:
        stop.set()
    assert (await running).succeeded == 1
