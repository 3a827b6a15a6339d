"""Steps of functions: what they take and give, and how often they run."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    PermanentFailure,
    Queue,
    QueueReader,
    RetryAfter,
)
from taquba.testing import MockClock, OpenQueue
from taquba_workflow import (
    InputMismatch,
    MisplacedCall,
    RunFailed,
    RunNotFound,
    RunState,
    StartOptions,
    StepError,
    StepFailed,
    StepOptions,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    fetch_run_result,
    read_history,
    step,
    workflow,
)
from tests.payloads.support import damage, put_right
from tests.workflow.functions.support import ID, calls, options, result_of, running, settled
from tests.workflow.support import entries, fresh_url


class Receipt(BaseModel):
    order: str
    lines: tuple[int, ...]
    at: datetime


async def price(order: str, factor: int = 2) -> int:
    return len(order) * factor


def stamp(order: str, *, at: datetime) -> Receipt:
    assert threading.current_thread() is not threading.main_thread()
    return Receipt(order=order, lines=(1, 2), at=at)


@workflow(name="order")
async def order(ctx: WorkflowContext, order_id: str, *, note: str = "") -> Receipt:
    """Orders something."""
    cost = await ctx.step(price, order_id, factor=3)
    assert isinstance(cost, int)
    receipt = await ctx.step(stamp, order_id + note, at=datetime(2030, 1, 1, tzinfo=UTC))
    assert isinstance(receipt, Receipt)
    return receipt


EXPECTED = Receipt(order="17!", lines=(1, 2), at=datetime(2030, 1, 1, tzinfo=UTC))


async def test_a_function_gets_what_its_steps_return_and_returns_what_its_handle_gets(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with running(queue, order) as runtime:
        handle = await runtime.start_with(ID, order, "17", note="!")
        assert handle.new
        assert await result_of(handle) == EXPECTED
        assert await handle.fetch_result() == EXPECTED
        assert await fetch_run_result(queue, order, "r") == EXPECTED
        status = await handle.status()
        assert status is not None
        assert (status.state, status.step_number) == (RunState.SUCCEEDED, 0)
        first, second = await runtime.history("r")
        assert (first.call, first.kind, first.name, first.result) == ("0", "step", "price", 6)
        assert (second.state, second.at, second.error) == ("done", mock_clock.now(), None)
    assert order.__doc__ == "Orders something."


async def test_the_result_and_the_history_are_there_after_a_restart_and_for_readers(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    async with await open_queue(url) as queue, running(queue, order) as runtime:
        await result_of(await runtime.start_with(ID, order, "17", note="!"))
    async with await open_queue(url) as queue, running(queue, order) as runtime:
        assert await result_of(runtime.handle(order, "r")) == EXPECTED
        again = await runtime.start_with(ID, order, "17", note="!")
        assert not again.new
        async with QueueReader.open(url) as reader:
            assert await fetch_run_result(reader, order, "r") == EXPECTED
            assert len(await read_history(reader, "r")) == 2
            assert await fetch_run_result(reader, order, "other") is None


async def test_a_result_that_is_another_workflow_s_is_told_apart(queue: Queue) -> None:
    async with running(queue, order, other_name) as runtime:
        await result_of(await runtime.start_with(ID, order, "17", note="!"))
        with pytest.raises(RunFailed, match="its result is not that of workflow 'other_name'"):
            await result_of(runtime.handle(other_name, "r"))


async def test_the_same_id_with_other_arguments_is_refused(queue: Queue) -> None:
    @workflow(name="other")
    async def other(ctx: WorkflowContext, order_id: str, *, note: str = "") -> None: ...

    async with running(queue, order, other) as runtime:
        await runtime.start_with(ID, order, "17")
        assert not (await runtime.start_with(ID, order, order_id="17", note="")).new
        with pytest.raises(InputMismatch):
            await runtime.start_with(ID, order, "18")
        with pytest.raises(InputMismatch):
            await runtime.start_with(ID, other, "17")


async def test_arguments_that_do_not_fit_start_nothing(queue: Queue) -> None:
    runtime = WorkflowRuntime(queue, workflows=[order])
    start: Any = runtime.start
    with pytest.raises(InvalidArgument, match=r"workflow 'order': order_id: .*got 5"):
        await start(order, 5)
    with pytest.raises(InvalidArgumentType, match="workflow 'order': missing"):
        await start(order)
    with pytest.raises(InvalidArgument, match="WorkflowRuntime\\(workflows=\\)"):
        await WorkflowRuntime(queue, workflows=[other_name]).start(order, "17")
    with pytest.raises(InvalidArgument, match="timezone"):
        StartOptions(run_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that it is naive is the point
    assert await entries(queue) == {}


@workflow(name="other_name")
async def other_name(ctx: WorkflowContext) -> None: ...


def test_what_cannot_be_a_workflow_or_a_step_is_refused_at_once() -> None:
    make: Any = workflow
    with pytest.raises(InvalidArgumentType, match="async def"):
        make(name="x")(lambda ctx: None)
    with pytest.raises(InvalidArgument, match="a workflow's name"):
        make(name="no spaces")(order.function)
    with pytest.raises(InvalidArgument, match="version of workflow"):
        make(name="x", version=0)(order.function)
    with pytest.raises(InvalidArgument, match="max_attempts"):
        step(max_attempts=0)
    with pytest.raises(InvalidArgument, match="backoff"):
        StepOptions(backoff=-1)
    with pytest.raises(InvalidArgumentType, match="must take its context first"):
        make(name="x")(no_context)


async def no_context() -> None: ...


async def test_a_runtime_needs_code_and_distinct_names(queue: Queue) -> None:
    @workflow(name="order")
    async def twin(ctx: WorkflowContext) -> None: ...

    with pytest.raises(InvalidArgument, match="a runner, or workflows"):
        WorkflowRuntime(queue)
    with pytest.raises(InvalidArgument, match="two of the workflows have the name 'order'"):
        WorkflowRuntime(queue, workflows=[order, twin])


class Flaky:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.seen: list[tuple[int, str]] = []

    @step(name="flaky", max_attempts=3, backoff=10)
    async def call(self, text: str) -> str:
        info = current_step()
        self.seen.append((info.attempt, info.idempotency_key))
        if self.errors:
            raise self.errors.pop(0)
        return text


async def test_a_step_is_retried_with_backoff_and_holds_no_worker_meanwhile(
    queue: Queue, mock_clock: MockClock
) -> None:
    flaky = Flaky(ValueError("no"), RetryAfter(100))

    @workflow(name="w")
    async def retried(ctx: WorkflowContext) -> str:
        return await ctx.step(flaky.call, "yes")

    async with running(queue, retried) as runtime:
        handle = await runtime.start_with(ID, retried)
        status = await settled(mock_clock, runtime)
        assert (status.state, status.step_number) == (RunState.SLEEPING, 1)
        (record,) = await runtime.history("r")
        assert (record.state, record.failures, record.error) == ("waiting", 1, "ValueError: no")
        assert record.due == mock_clock.now() + timedelta(seconds=10)
        await mock_clock.advance(10)
        await mock_clock.advance(99)
        assert len(flaky.seen) == 2
        await mock_clock.advance(1)
        assert await result_of(handle) == "yes"
    assert flaky.seen == [(1, "r/0"), (2, "r/0"), (3, "r/0")]


@pytest.mark.parametrize(
    ("errors", "attempts", "kind"),
    [
        ([ValueError("no")] * 3, 3, "ValueError"),
        ([StepError.permanent("no")], 1, "StepError"),
        ([PermanentFailure("no")], 1, "PermanentFailure"),
    ],
)
async def test_a_step_that_has_failed_for_good_raises_in_the_function(
    queue: Queue, mock_clock: MockClock, errors: list[Exception], attempts: int, kind: str
) -> None:
    flaky = Flaky(*errors)
    caught: list[StepFailed] = []

    @workflow(name="w")
    async def failing(ctx: WorkflowContext) -> str:
        try:
            await ctx.step(flaky.call, "yes")
        except StepFailed as error:
            caught.append(error)
        # From the history this time, and not caught.
        await ctx.sleep(1000)
        return await ctx.step(flaky.call, "again")

    flaky.errors += [StepError.permanent("for good")]
    async with running(queue, failing) as runtime:
        handle = await runtime.start_with(ID, failing)
        await mock_clock.advance(5000)
        with pytest.raises(RunFailed, match="step 'flaky' failed: StepError: for good") as ended:
            await result_of(handle)
    assert (ended.value.run_id, ended.value.state) == ("r", "failed")
    # Once when it came about, once from the history.
    assert len(caught) == 2
    assert len(flaky.seen) == attempts + 1
    assert {(error.step, error.kind, error.message) for error in caught} == {("flaky", kind, "no")}


async def test_options_of_one_call_take_the_place_of_those_of_the_function(
    queue: Queue, mock_clock: MockClock
) -> None:
    flaky = Flaky(ValueError("no"))

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        return await ctx.step_with(StepOptions(max_attempts=1, name="once"), flaky.call, "yes")

    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="step 'once' failed: ValueError: no"):
            await result_of(await runtime.start(w))


async def test_a_result_that_is_not_what_is_annotated_fails_its_step(queue: Queue) -> None:
    async def liar() -> int:
        return "text"  # type: ignore[return-value]

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        return await ctx.step(liar)

    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="the result does not fit its annotation"):
            await result_of(await runtime.start(w))


async def test_an_error_of_the_function_itself_fails_its_run_at_once(queue: Queue) -> None:
    ran: list[int] = []

    @workflow(name="w")
    async def w(ctx: WorkflowContext, kind: str) -> int:
        ran.append(1)
        if kind == "raises":
            raise KeyError("k")
        if kind == "bad arguments":
            step: Any = ctx.step
            await step(price, 5)
        if kind == "lambda":
            await ctx.step(lambda: None)
        return "text"  # type: ignore[return-value]

    async with running(queue, w) as runtime:
        for kind, reason in {
            "raises": "KeyError: 'k'",
            "bad arguments": "step 'price': order: ",
            "lambda": "a lambda has no name",
            "wrong result": "the result does not fit its annotation",
        }.items():
            with pytest.raises(RunFailed, match=reason):
                await result_of(await runtime.start(w, kind))
    assert len(ran) == 4


async def test_large_results_are_objects_and_go_with_their_run(
    queue: Queue, mock_clock: MockClock
) -> None:
    async def make(size: int) -> bytes:
        return bytes(size)

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> bytes:
        large = await ctx.step(make, 1_000_000)
        await ctx.sleep(1)
        return large

    async with running(queue, w, memo_retention=60) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(1)
        assert await result_of(handle) == bytes(1_000_000)
        assert len([info async for info in queue.objects.list("workflow")]) == 2
        assert len(await runtime.history("r")) == 2
        await mock_clock.advance(60)
        assert await entries(queue) == {}
        assert [info async for info in queue.objects.list("workflow")] == []
        assert await runtime.history("r") == []
        with pytest.raises(RunNotFound):
            await result_of(handle)


async def test_a_run_whose_recorded_result_is_damaged_waits_until_it_is_put_right(
    queue: Queue, mock_clock: MockClock
) -> None:
    made: list[int] = []

    async def make(size: int) -> bytes:
        made.append(size)
        return bytes(size)

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        large = await ctx.step(make, 100_000)
        await ctx.sleep(10)
        return len(large)

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        await mock_clock.advance(1)
        before = await damage(queue, "/objects/", lambda data: data[1:])
        await mock_clock.advance(1000)
        assert [status.run_id for status in await runtime.parked()] == ["r"]
        await put_right(queue, before)
        await mock_clock.advance(60)
        assert await result_of(handle) == 100_000
    assert made == [100_000]


async def test_a_context_works_where_a_replay_finds_its_calls_and_nowhere_else(
    queue: Queue,
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext, where: str) -> None:
        async def inside() -> None:
            await ctx.sleep(0)

        if where == "task":
            await asyncio.create_task(inside())
        elif where == "step":
            await ctx.step_with(StepOptions(max_attempts=1), inside)
        else:
            kept.append(ctx)

    kept: list[WorkflowContext] = []
    async with running(queue, w) as runtime:
        with pytest.raises(RunFailed, match="in a task of its own"):
            await result_of(await runtime.start(w, "task"))
        with pytest.raises(RunFailed, match=r"MisplacedCall: .* used in a step"):
            await result_of(await runtime.start(w, "step"))
        await result_of(await runtime.start(w, "later"))
        with pytest.raises(asyncio.CancelledError):
            await kept[0].sleep(1)
    with pytest.raises(MisplacedCall):
        current_step()


async def test_a_handle_waits_no_longer_than_it_is_told(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        await ctx.sleep(100)
        return 1

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(ID, w)
        waiting = asyncio.create_task(handle.result(timeout=50))
        await mock_clock.advance(50)
        with pytest.raises(TimeoutError):
            await waiting
        assert await handle.fetch_result() is None
        long = asyncio.create_task(handle.result(timeout=51))
        await mock_clock.advance(50)
        assert await long == 1
        with pytest.raises(RunNotFound):
            await runtime.handle(w, "nobody").result()


async def test_a_run_can_start_later_and_has_its_own_headers(
    queue: Queue, mock_clock: MockClock
) -> None:
    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> tuple[str, datetime]:
        return ctx.headers["a"], ctx.now()

    start = mock_clock.now() + timedelta(hours=1)
    async with running(queue, w) as runtime:
        handle = await runtime.start_with(
            StartOptions(run_id="r", headers={"a": "b"}, priority=5, run_at=start), w
        )
        assert (await settled(mock_clock, runtime)).state is RunState.SLEEPING
        await mock_clock.advance(3600)
        assert await result_of(handle) == ("b", start)


async def test_many_steps_are_replayed_once_per_turn_and_stop_nobody(
    queue: Queue, mock_clock: MockClock
) -> None:
    ran: list[int] = []

    async def count(number: int) -> int:
        ran.append(number)
        return number

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        total = 0
        for number in range(300):
            total += await ctx.step(count, number)
        await ctx.sleep(10)
        return total

    async with running(queue, w) as runtime:
        handle = await runtime.start_with(options("r"), w)
        await mock_clock.advance(10)
        assert await result_of(handle) == sum(range(300))
        assert len(await calls(runtime)) == 301
    assert ran == list(range(300))


async def test_a_runtime_that_stops_does_not_wait_for_the_whole_function(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    begun, go_on = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    async def slow(number: int) -> int:
        ran.append(number)
        begun.set()
        await go_on.wait()
        return number

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> int:
        return sum([await ctx.step(slow, number) for number in range(5)])

    async with await open_queue(url) as queue:
        shutdown = asyncio.Event()
        runtime = WorkflowRuntime(queue, workflows=[w])
        working = asyncio.create_task(runtime.run(shutdown))
        await runtime.start_with(ID, w)
        await begun.wait()
        shutdown.set()
        await asyncio.sleep(0)
        go_on.set()
        await working
        # The step that ran has ended, and was the last one.
        assert await calls(runtime) == ["0 step slow done"]
        status = await settled(mock_clock, runtime)
        assert (status.state, status.step_number, status.attempts) == (RunState.PENDING, 1, 0)
    async with await open_queue(url) as queue, running(queue, w) as runtime:
        assert await result_of(runtime.handle(w, "r")) == 10
    assert ran == list(range(5))


async def test_a_plain_step_knows_about_itself_in_its_thread(queue: Queue) -> None:
    def plain() -> str:
        return current_step().idempotency_key

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        return await ctx.step(plain)

    async with running(queue, w) as runtime:
        assert await result_of(await runtime.start_with(ID, w)) == "r/0"


async def test_a_time_out_of_the_function_itself_breaks_nothing(
    queue: Queue, mock_clock: MockClock
) -> None:
    """It is no way to write a workflow, but the turn must not end under the code that goes on."""
    ended: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    @workflow(name="w")
    async def w(ctx: WorkflowContext) -> str:
        for waits in (ctx.wait_signal("k"), ctx.gather(ctx.sleep(1000), ctx.step(hang))):
            try:
                async with asyncio.timeout(0.01):
                    await waits
            except TimeoutError:
                await asyncio.sleep(0.01)
                ended.append("timed out")
        return "done"

    @workflow(name="busy")
    async def busy(ctx: WorkflowContext) -> tuple[str, None]:
        return await ctx.gather(w(ctx), ctx.step(nap))

    async def nap() -> None:
        await asyncio.sleep(0.2)

    async with running(queue, busy) as runtime:
        assert await result_of(await runtime.start(busy)) == ("done", None)
    assert ended == ["timed out"] * 2
