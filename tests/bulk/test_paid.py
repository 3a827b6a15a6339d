"""Paid calls: made once, unknown when cut off, within a budget, limited, cached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    PermanentFailure,
    Queue,
    QueueConfig,
    RetryAfter,
)
from taquba.testing import MockClock, OpenQueue
from taquba_bulk import (
    BudgetExceeded,
    Bulk,
    BulkContext,
    BulkRecord,
    BulkReport,
    ItemStatus,
    JsonlSink,
    PaidCall,
)
from tests.bulk.support import EAGER, PATIENT, fresh_url, rows_of, until
from tests.payloads.support import damage
from tests.workflow.support import entries


class Service:
    """A callee: counts its calls, and can be told to raise."""

    def __init__(self, price: float = 1) -> None:
        self.price = price
        self.calls: list[PaidCall] = []
        self.errors: list[Exception] = []

    async def __call__(self, call: PaidCall) -> str:
        self.calls.append(call)
        if self.errors:
            raise self.errors.pop(0)
        return f"result {len(self.calls)}"


async def records_of(bulk: Bulk[Any, Any], inputs: list[Any]) -> list[BulkRecord[Any]]:
    async with aclosing(bulk.stream(inputs)) as records:
        return sorted([record async for record in records], key=lambda record: record.index)


async def interrupt(
    url: str, pipeline: Callable[[BulkContext[Any]], Awaitable[Any]], begun: Callable[[], bool]
) -> None:
    """Run one item in a process that dies while its pipeline makes a call."""
    queue = await Queue.open(url, default_config=PATIENT)
    running = asyncio.create_task(Bulk(queue, pipeline, budget={"usd": 100}).run([1]))
    await until(begun)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await queue.close()


# -- unknown calls --------------------------------------------------------------------------------


async def test_a_call_is_made_once_however_often_its_item_is_tried(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    service = Service()

    async def pay(ctx: BulkContext[int]) -> str:
        found = await ctx.paid_call("charge", service)
        if ctx.attempt < 3:
            raise ValueError
        return found

    [record] = await records_of(Bulk(queue, pay), [1])
    assert record.output == "result 1"
    assert [call.begun for call in service.calls] == [1]


@pytest.mark.parametrize("how", ["crash", "error"])
@pytest.mark.parametrize("policy", ["retry", "skip", "ask"])
async def test_a_call_without_a_result_is_handled_as_its_policy_says(
    how: str, policy: Literal["retry", "skip", "ask"]
) -> None:
    service = Service()
    asked: list[PaidCall] = []
    hang = how == "crash"
    if not hang:
        service.errors.append(OSError("connection reset"))

    async def call(paid: PaidCall) -> str:
        found = await service(paid)
        if hang:
            await asyncio.sleep(3600)
        return found

    async def ask(paid: PaidCall) -> str:
        asked.append(paid)
        return "found out"

    async def pay(ctx: BulkContext[int]) -> str | None:
        reserve = {"usd": 2.0}
        if policy == "skip":
            return await ctx.paid_call("c", call, reserve=reserve, on_unknown="skip", type=str)
        known = ask if policy == "ask" else "retry"
        return await ctx.paid_call("c", call, reserve=reserve, on_unknown=known)

    url = fresh_url()
    if hang:
        await interrupt(url, pay, lambda: bool(service.calls))
        hang = False
    async with Queue.open(url, default_config=PATIENT) as queue:
        bulk = Bulk(queue, pay, budget={"usd": 100})
        report = await bulk.run([1])
        [record] = await records_of(bulk, [1])
    keys = {call.idempotency_key for call in service.calls + asked}
    assert len(keys) == 1
    match policy:
        case "retry":
            assert (record.output, len(service.calls)) == ("result 2", 2)
            assert service.calls[1].begun == 2
        case "skip":
            assert (record.output, len(service.calls)) == (None, 1)
        case "ask":
            assert (record.output, len(service.calls)) == ("found out", 1)
            assert asked[0].begun == 2
    # What is unknown counts as reserved, and so does a call that does not say what it cost.
    assert report.spent == {"usd": 2 if policy == "skip" else 4}
    assert record.cost == {"usd": 2}


async def test_what_was_skipped_stays_skipped(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    service = Service()
    service.errors.append(OSError())

    async def pay(ctx: BulkContext[int]) -> int:
        assert (await ctx.paid_call("c", service, on_unknown="skip", type=str)) is None
        if ctx.attempt < 3:
            raise ValueError
        return 5

    [record] = await records_of(Bulk(queue, pay), [1])
    assert (record.output, len(service.calls)) == (5, 1)


async def test_retry_after_says_that_the_call_was_not_made(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=EAGER)
    service = Service()
    service.errors += [RetryAfter(60)] * 3
    attempts: list[int] = []

    async def pay(ctx: BulkContext[int]) -> str | None:
        attempts.append(ctx.attempt)
        return await ctx.paid_call("c", service, reserve={"usd": 1}, on_unknown="skip")

    running = asyncio.create_task(records_of(Bulk(queue, pay, budget={"usd": 1}), [1]))
    while not running.done():
        await asyncio.sleep(0.01)
        await mock_clock.advance(30)
    [record] = running.result()
    # Neither attempts nor money went into the three that were turned away.
    assert (record.output, attempts) == ("result 4", [1] * 4)
    assert len({call.idempotency_key for call in service.calls}) == 1


async def test_other_items_and_calls_have_other_idempotency_keys(queue: Queue) -> None:
    service = Service()

    async def pay(ctx: BulkContext[int]) -> None:
        await ctx.paid_call("a", service)
        await ctx.paid_call("b", service)

    await Bulk(queue, pay).run([1, 2])
    assert len({call.idempotency_key for call in service.calls}) == 4


async def test_a_paid_call_within_another_is_refused(queue: Queue) -> None:
    service = Service()

    async def pay(ctx: BulkContext[int]) -> None:
        async def outer(call: PaidCall) -> str:
            return await ctx.paid_call("inner", service)

        await ctx.paid_call("outer", outer)

    [record] = await records_of(Bulk(queue, pay), [1])
    assert record.status is ItemStatus.FAILED
    assert "'inner' is made within another one" in (record.error or "")


# -- the budget -----------------------------------------------------------------------------------


def spending(service: Service, reserve: float = 1) -> Callable[[BulkContext[int]], Awaitable[str]]:
    async def pay(ctx: BulkContext[int]) -> str:
        async def call(paid: PaidCall) -> str:
            found = await service(paid)
            ctx.record_cost("usd", service.price)
            return found

        return await ctx.paid_call("c", call, reserve={"usd": reserve})

    return pay


async def test_a_batch_stops_before_its_budget_is_exceeded_and_goes_on_with_a_larger_one(
    tmp_path: Path,
) -> None:
    url, out, service = fresh_url(), tmp_path / "out.jsonl", Service(price=0.1)

    async def run(budget: float) -> BulkReport:
        # In a process of its own each time.
        async with Queue.open(url, default_config=EAGER) as queue:
            pipeline = spending(service, reserve=0.1)
            bulk = Bulk(queue, pipeline, output=JsonlSink(out), budget={"usd": budget})
            return await bulk.run(range(100))

    for budget, calls in ((2, 20), (2.05, 20), (5, 50)):
        with pytest.raises(BudgetExceeded, match=f"budget of {budget:g} usd") as caught:
            await run(budget)
        assert len(service.calls) == calls
        assert caught.value.report.spent == {"usd": calls / 10}
        assert len(rows_of(out)) == calls
        assert not caught.value.report.complete
    report = await run(10)
    assert (report.succeeded, len(service.calls)) == (100, 100)
    assert (report.spent, report.cost) == ({"usd": 10}, {"usd": 10})


async def test_calls_wait_for_reservations_that_may_come_free(queue: Queue) -> None:
    service = Service(price=0.5)
    # Three times two are more than five, but each costs a quarter of that.
    report = await Bulk(queue, spending(service, reserve=2), budget={"usd": 5}).run(range(7))
    assert report.spent == {"usd": 3.5}


async def test_a_call_that_can_never_be_paid_stops_the_batch_at_once(queue: Queue) -> None:
    service = Service()
    with pytest.raises(BudgetExceeded):
        await Bulk(queue, spending(service, reserve=6), budget={"usd": 5}).run([1])
    assert service.calls == []


async def test_a_stopped_item_spends_no_attempt(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1))
    service = Service()
    for budget in (1, 2, 3):
        with pytest.raises(BudgetExceeded):
            await Bulk(queue, spending(service), budget={"usd": budget}).run(range(4))
    assert (await Bulk(queue, spending(service), budget={"usd": 4}).run(range(4))).succeeded == 4


async def test_a_pipeline_that_catches_everything_does_not_hide_that_the_budget_is_used_up(
    queue: Queue,
) -> None:
    pay = spending(Service(), reserve=6)

    async def careless(ctx: BulkContext[int]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_awaited(pay(ctx)))
        except Exception:
            return

    with pytest.raises(BudgetExceeded) as caught:
        await Bulk(queue, careless, budget={"usd": 5}).run([1])
    assert caught.value.report.succeeded == 0


@pytest.mark.parametrize("then", ["returns", "raises"])
async def test_a_pipeline_that_even_catches_what_suspends_it_is_run_again(
    queue: Queue, then: str
) -> None:
    service = Service()

    async def careless(ctx: BulkContext[int]) -> list[str]:
        calls = (ctx.paid_call(key, service, reserve={"usd": 1}) for key in "abc")
        found = await asyncio.gather(*calls, return_exceptions=True)
        if then == "raises" and not all(isinstance(call, str) for call in found):
            raise PermanentFailure("not all calls could be made")
        return [str(call) for call in found]

    with pytest.raises(BudgetExceeded) as caught:
        await Bulk(queue, careless, budget={"usd": 2}).run([1])
    assert (caught.value.report.succeeded, caught.value.report.failed) == (0, 0)
    [record] = await records_of(Bulk(queue, careless, budget={"usd": 3}), [1])
    assert (len(record.output), len(service.calls)) == (3, 3)
    assert "Suspended()" not in record.output


@pytest.mark.parametrize("how", ["paid", "rate", "phase"])
async def test_a_pipeline_that_goes_on_when_it_is_suspended_is_left_behind(
    queue: Queue, how: str
) -> None:
    service = Service()

    async def nothing() -> None: ...

    async def endless(ctx: BulkContext[int]) -> None:
        while True:
            try:
                await ctx.paid_call("p", service, reserve={"usd": 6})
            except BaseException:
                while True:
                    try:
                        if how == "paid":
                            await ctx.paid_call("q", service, reserve={"usd": 6})
                        elif how == "rate":
                            await ctx.acquire("r")
                        else:
                            await ctx.memoized("m", nothing)
                    except BaseException:
                        continue

    bulk: Bulk[Any, Any] = Bulk(queue, endless, budget={"usd": 5}, rate={"r": (1, "1h")})
    async with asyncio.timeout(20):
        with pytest.raises(BudgetExceeded) as caught:
            await bulk.run([1, 2])
    assert caught.value.report.failed == 0
    assert service.calls == []


async def _awaited(work: Awaitable[object]) -> None:
    await work


async def test_calls_that_fail_count_as_reserved_or_as_recorded(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=EAGER)
    tries = 0

    async def pay(ctx: BulkContext[int]) -> None:
        async def call(paid: PaidCall) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError
            ctx.record_cost("usd", 0.25)
            if tries == 2:
                raise OSError

        await ctx.paid_call("c", call, reserve={"usd": 1})

    report = await Bulk(queue, pay, budget={"usd": 10}).run([1])
    assert report.spent == {"usd": 1 + 0.25 + 0.25}
    assert report.cost == {"usd": 0.25}


async def test_a_call_has_to_say_what_it_may_cost_of_a_budget(queue: Queue) -> None:
    async def pay(ctx: BulkContext[int]) -> None:
        await ctx.paid_call("c", Service(), reserve={"tokens": 5})

    [record] = await records_of(Bulk(queue, pay, budget={"usd": 1}), [1])
    assert "must give its maximum cost" in (record.error or "")


async def test_costs_of_a_budget_come_from_paid_calls_only(queue: Queue) -> None:
    async def pay(ctx: BulkContext[int]) -> None:
        ctx.record_cost("tokens", 5)
        ctx.record_cost("usd", 5)

    [record] = await records_of(Bulk(queue, pay, budget={"usd": 1}), [1])
    assert "only paid calls respect" in (record.error or "")


# -- rate limits ----------------------------------------------------------------------------------


async def test_no_more_than_the_rate_limit_in_any_stretch_of_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    times: list[float] = []

    async def work(ctx: BulkContext[int]) -> None:
        await ctx.acquire("llm")
        times.append(mock_clock.monotonic_ms() / 1000)
        await ctx.acquire("free")

    rate: dict[str, Any] = {"llm": (5, "1m"), "free": (1000, 1)}
    running = asyncio.create_task(Bulk(queue, work, rate=rate).run(range(23)))
    while not running.done():
        await asyncio.sleep(0.01)
        await mock_clock.advance(7)
    assert len(times) == 23
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[5:], strict=False))
    assert times[-1] - times[0] < 5 * 60


async def test_a_rate_over_a_fraction_of_seconds_is_exact(
    queue: Queue, mock_clock: MockClock
) -> None:
    asked = 0
    granted_ms: list[int] = []

    async def work(ctx: BulkContext[int]) -> None:
        nonlocal asked
        asked += 1
        await ctx.acquire("llm")
        granted_ms.append(mock_clock.monotonic_ms())

    running = asyncio.create_task(Bulk(queue, work, rate={"llm": (1, 4.03)}).run([1, 2]))
    await until(lambda: asked == 2 and len(granted_ms) == 1)
    await mock_clock.advance(5)
    await running
    # 4.03 * 1000 is a little more than 4030, and must not be rounded up.
    assert granted_ms[1] - granted_ms[0] == 4030


async def test_retry_after_pauses_the_rate_limit_without_spending_attempts(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1))
    times: list[float] = []

    async def work(ctx: BulkContext[int]) -> None:
        if ctx.input == 0:
            return
        await ctx.acquire("llm")
        times.append(mock_clock.monotonic_ms() / 1000)
        if len(times) == 1:
            async with asyncio.TaskGroup():
                raise RetryAfter(90, "429")

    bulk = Bulk(queue, work, rate={"llm": (1, 1)}, max_concurrent=2)
    running = asyncio.create_task(bulk.run([1, 2, 3]))
    await until(lambda: len(times) == 1)
    while not running.done():
        await asyncio.sleep(0.01)
        await mock_clock.advance(1)
    assert running.result().succeeded == 3
    assert len(times) == 4
    assert times[1] - times[0] >= 90


async def test_shutdown_does_not_wait_for_a_rate_limit(queue: Queue) -> None:
    started, shutdown = asyncio.Event(), asyncio.Event()

    async def work(ctx: BulkContext[int]) -> None:
        started.set()
        await ctx.acquire("llm")

    bulk = Bulk(queue, work, rate={"llm": (1, "1h")})
    running = asyncio.create_task(bulk.run(range(10), shutdown))
    await started.wait()
    await until(lambda: bulk.progress().done == 1)
    shutdown.set()
    async with asyncio.timeout(30):
        report = await running
    assert (report.succeeded, report.failed, report.complete) == (1, 0, False)


async def test_a_rate_limit_that_the_batch_does_not_have_is_named(queue: Queue) -> None:
    async def work(ctx: BulkContext[int]) -> None:
        await ctx.paid_call("c", Service(), rate="lmm")

    [record] = await records_of(Bulk(queue, work, rate={"llm": (1, 1)}), [1])
    assert "no rate limit 'lmm'; its rate= names 'llm'" in (record.error or "")


# -- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("form", ["paid", "by content"])
async def test_what_another_batch_has_found_is_used_while_it_is_fresh(
    queue: Queue, mock_clock: MockClock, form: str, size: int
) -> None:
    calls = 0

    async def find(ctx: BulkContext[int]) -> bytes:
        async def call(paid: PaidCall | None = None) -> bytes:
            nonlocal calls
            calls += 1
            ctx.record_cost("usd", 1)
            return bytes(size)

        if form == "paid":
            return await ctx.paid_call(f"{ctx.input % 2}", call, cache="c", ttl=3600)
        return await ctx.memoized_by_content([ctx.input % 2], call, cache="c", ttl=3600)

    [_, _, third] = await records_of(Bulk(queue, find, queue_name="a"), [0, 1, 2])
    # Items that ask at the same time wait for the one that was first.
    assert calls == 2
    assert third.output == bytes(size)
    records = await records_of(Bulk(queue, find, queue_name="b"), [0, 1, 2])
    assert calls == 2
    # Who did not pay has no costs.
    assert [record.cost for record in records] == [{}, {}, {}]
    await mock_clock.advance(3600)
    await records_of(Bulk(queue, find, queue_name="c"), [0])
    assert calls == 3


async def test_what_another_batch_has_found_is_old_at_the_millisecond_it_expires(
    queue: Queue, mock_clock: MockClock
) -> None:
    service = Service()

    async def find(ctx: BulkContext[int]) -> str:
        return await ctx.paid_call("c", service, cache="c", ttl=4.03)

    await Bulk(queue, find, queue_name="a").run([1])
    await mock_clock.advance(timedelta(milliseconds=4029))
    await Bulk(queue, find, queue_name="b").run([1])
    assert len(service.calls) == 1
    await mock_clock.advance(timedelta(milliseconds=1))
    await Bulk(queue, find, queue_name="c").run([1])
    assert len(service.calls) == 2


async def test_what_has_expired_is_swept(queue: Queue, mock_clock: MockClock) -> None:
    async def find(ctx: BulkContext[int]) -> bytes:
        async def call() -> bytes:
            return bytes(100_000)

        return await ctx.memoized_by_content(ctx.input, call, cache="c/d", ttl=60 * ctx.input)

    async def cached() -> tuple[int, int]:
        objects = [info async for info in queue.objects.list("taquba_bulk_cache")]
        return len(await entries(queue, "taquba_bulk_cache/entry/")), len(objects)

    await Bulk(queue, find, queue_name="a").run([1, 2, 3])
    assert await cached() == (3, 3)
    await mock_clock.advance(120)
    await Bulk(queue, find, queue_name="b").run(range(10, 11))
    while await cached() != (2, 2):  # noqa: ASYNC110 - the sweep has no event
        await asyncio.sleep(0.01)
    await mock_clock.advance(10_000)
    await Bulk(queue, find, queue_name="c").run([])
    assert await cached() == (0, 0)
    assert await entries(queue, "taquba_bulk_cache/") == {}


async def test_what_a_cache_keeps_is_made_anew_where_it_is_damaged(queue: Queue) -> None:
    made: list[int] = []

    async def find(ctx: BulkContext[int]) -> int:
        async def call() -> bytes:
            made.append(ctx.input)
            return bytes(100_000)

        return len(await ctx.memoized_by_content(ctx.input, call, cache="c"))

    await Bulk(queue, find, queue_name="a").run([1])
    await damage(queue, "/objects/taquba_bulk_cache/", lambda data: data[:-1])
    report = await Bulk(queue, find, queue_name="b").run([1])
    assert (report.succeeded, made) == (1, [1, 1])
    await Bulk(queue, find, queue_name="c").run([1])
    assert made == [1, 1]


async def test_what_a_phase_came_to_is_made_anew_where_it_is_damaged(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=EAGER)
    made: list[int] = []

    async def find(ctx: BulkContext[int]) -> int:
        async def call() -> bytes:
            made.append(ctx.input)
            return bytes(100_000)

        found = await ctx.memoized("phase", call)
        if len(made) == 1:
            await damage(queue, "/objects/workflow/", lambda data: data[1:])
            raise ValueError
        return len(found)

    report = await Bulk(queue, find, queue_name="a").run([1])
    assert (report.succeeded, made) == (1, [1, 1])


async def test_without_ttl_a_cache_keeps_for_ever(queue: Queue, mock_clock: MockClock) -> None:
    service = Service()

    async def find(ctx: BulkContext[int]) -> str:
        return await ctx.paid_call("same", service, cache="c")

    await Bulk(queue, find, queue_name="a").run([1])
    await mock_clock.advance(24 * 3600)
    await Bulk(queue, find, queue_name="b").run([1])
    assert len(service.calls) == 1


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"budget": 50}, InvalidArgumentType, "50"),
        ({"budget": {"usd": 0}}, InvalidArgument, "more than 0"),
        ({"budget": {"usd": -1}}, InvalidArgument, "-1"),
        ({"budget": {"usd": "5"}}, InvalidArgumentType, "'5'"),
        ({"budget": {"": 5}}, InvalidArgument, "metric"),
        ({"rate": 500}, InvalidArgumentType, "500"),
        ({"rate": {"llm": 500}}, InvalidArgumentType, "500"),
        ({"rate": {"llm": (0, "1m")}}, InvalidArgument, "at least 1"),
        ({"rate": {"llm": (1.5, "1m")}}, InvalidArgumentType, "1.5"),
        ({"rate": {"llm": (10**20, "1m")}}, InvalidArgument, "at most 1,000,000,000"),
        ({"rate": {"llm": (5, "1 minute")}}, InvalidArgument, "1 minute"),
        ({"rate": {"llm": (5, 0)}}, InvalidArgument, "0"),
        ({"rate": {"llm": (5, None)}}, InvalidArgumentType, "None"),
    ],
)
async def test_what_cannot_be_a_budget_or_rate_is_refused(
    queue: Queue, arguments: dict[str, Any], error: type[Exception], told: str
) -> None:
    async def work(ctx: BulkContext[int]) -> None: ...

    with pytest.raises(error, match=told):
        Bulk(queue, work, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"reserve": {"usd": -1}}, "-1"),
        ({"on_unknown": "ignore"}, "'ignore'"),
        ({"cache": ""}, "name of a cache"),
        ({"cache": "c", "ttl": 0}, "ttl must be at least 0.001 s; got 0"),
        ({"ttl": 60}, "name the cache as well"),
        ({"key": ""}, "key of a phase"),
        ({"key": "x" * 1001}, "key of a phase"),
    ],
)
async def test_what_cannot_be_a_paid_call_fails_its_item_before_it_is_made(
    queue: Queue, arguments: dict[str, Any], told: str
) -> None:
    service = Service()

    async def work(ctx: BulkContext[int]) -> None:
        options = {name: value for name, value in arguments.items() if name != "key"}
        await ctx.paid_call(arguments.get("key", "c"), service, **options)

    [record] = await records_of(Bulk(queue, work), [1])
    assert told in (record.error or "")
    assert service.calls == []


async def test_a_failed_item_keeps_what_its_calls_cost(queue: Queue) -> None:
    pay = spending(Service(price=0.5))

    async def fails(ctx: BulkContext[int]) -> None:
        await pay(ctx)
        raise PermanentFailure("after all")

    [record] = await records_of(Bulk(queue, fails, budget={"usd": 5}), [1])
    assert (record.status, record.cost) == (ItemStatus.FAILED, {"usd": 0.5})
