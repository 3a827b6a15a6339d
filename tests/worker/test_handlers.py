"""The forms of a handler: async, plain in a thread, an object, in an executor."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from taquba import (
    CancelRequested,
    ClaimLost,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    RetryAfter,
    SettlementEffects,
    run_worker,
)
from taquba.testing import MockClock
from taquba_jobs import JobContext, job
from taquba_workflow import WorkflowContext, workflow
from tests.worker.support import add_jobs, finish, working


def note(job: JobRecord) -> SettlementEffects:
    where = f"{os.getpid()} {threading.get_ident()}"
    return SettlementEffects(kv_writes={job.payload: where.encode()})


async def as_coroutine(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    return note(job)


def as_function(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    return note(job)


class AsyncObject:
    async def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return note(job)


class PlainObject:
    def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return note(job)


class AsyncCallable:
    async def __call__(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return note(job)


class PlainCallable:
    def __call__(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return note(job)


def with_extra(extra: int, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    return note(job)


async def with_extra_async(extra: int, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    return note(job)


def decorated(
    function: Callable[[JobRecord, LeaseHandle], Awaitable[SettlementEffects]],
) -> Callable[[JobRecord, LeaseHandle], Awaitable[SettlementEffects]]:
    @functools.wraps(function)
    def call(job: JobRecord, lease: LeaseHandle) -> Awaitable[SettlementEffects]:
        return function(job, lease)

    return call


ON_THE_LOOP: dict[str, Any] = {
    "async function": as_coroutine,
    "object with async process": AsyncObject(),
    "async method": AsyncObject().process,
    "object with async __call__": AsyncCallable(),
    "partial of an async function": functools.partial(with_extra_async, 1),
}
IN_A_THREAD: dict[str, Any] = {
    "plain function": as_function,
    "object with plain process": PlainObject(),
    "object with plain __call__": PlainCallable(),
    "partial of a plain function": functools.partial(with_extra, 1),
    "lambda": lambda job, lease: note(job),
}


async def where_it_ran(queue: Queue, handler: Any, **options: Any) -> tuple[int, int]:
    ids = await add_jobs(queue, 1)
    async with working(queue, handler, **options):
        await finish(queue, *ids)
    value = await queue.kv_get("0")
    assert value is not None, await queue.attempt_history(ids[0])
    process, thread = value.split()
    return int(process), int(thread)


@pytest.mark.parametrize("handler", ON_THE_LOOP.values(), ids=ON_THE_LOOP)
async def test_async_handlers_run_on_the_loop(queue: Queue, handler: Any) -> None:
    assert await where_it_ran(queue, handler) == (os.getpid(), threading.get_ident())


@pytest.mark.parametrize("handler", IN_A_THREAD.values(), ids=IN_A_THREAD)
async def test_plain_handlers_run_in_a_thread(queue: Queue, handler: Any) -> None:
    process, thread = await where_it_ran(queue, handler)
    assert process == os.getpid()
    assert thread != threading.get_ident()


@pytest.mark.parametrize(
    "handler",
    [decorated(as_coroutine), lambda job, lease: as_coroutine(job, lease)],
    ids=["decorated", "lambda"],
)
async def test_what_a_plain_function_returns_to_be_awaited_is_awaited(
    queue: Queue, handler: Any
) -> None:
    """Nothing tells from outside that these are async, and the type checker accepts them."""
    assert await where_it_ran(queue, handler) == (os.getpid(), threading.get_ident())


def takes_one(job: JobRecord) -> None: ...


def takes_three(job: JobRecord, lease: LeaseHandle, database: object) -> None: ...


def yields(job: JobRecord, lease: LeaseHandle) -> Iterator[None]:
    yield


async def yields_async(job: JobRecord, lease: LeaseHandle) -> AsyncIterator[None]:
    yield


@job(name="double")
def double(ctx: JobContext, number: int) -> int:
    return 2 * number


@workflow(name="order")
async def order(ctx: WorkflowContext) -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (takes_one, r"takes_one.*\(job: .*too many positional"),
        (takes_three, "takes_three.*missing a required argument: 'database'"),
        (functools.partial(as_function, lease=LeaseHandle.detached()), "too many"),
        (yields, "must not yield"),
        (yields_async, "must not yield"),
        (functools.partial(yields), "must not yield"),
        (PlainObject, "PlainObject is a class: pass an object of it"),
        (double, r"'double'.*runs in a JobRunner\(queue, jobs="),
        (order, r"'order'.*runs in a WorkflowRuntime\("),
        (5, "not 5"),
    ],
)
async def test_what_cannot_be_a_handler_is_refused_at_the_start(
    queue: Queue, handler: Any, why: str
) -> None:
    with pytest.raises(InvalidArgumentType, match=why):
        await run_worker(queue, "q", handler)


async def test_a_handler_that_was_called_already_is_refused(queue: Queue) -> None:
    with pytest.raises(InvalidArgumentType, match=r"as_coroutine\(\) returned.*uncalled"):
        await run_worker(queue, "q", as_coroutine(None, None))  # type: ignore[arg-type]


async def test_a_decorator_may_pass_more_than_it_is_given(queue: Queue) -> None:
    @functools.wraps(takes_three)
    def injected(*args: Any) -> None:
        job, lease = args
        takes_three(job, lease, "database")

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, injected):
        assert await finish(queue, job_id) == [None]


async def test_a_result_that_was_not_awaited_says_so(queue: Queue) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> Any:
        return as_coroutine(job, lease)

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, handle):
        (dead,) = await finish(queue, job_id)
    assert dead is not None
    assert dead.last_error is not None
    assert dead.last_error.endswith("not coroutine: await it in the handler")


# -- threads ------------------------------------------------------------------------------------


async def test_plain_handlers_run_side_by_side(queue: Queue) -> None:
    together = threading.Barrier(4, timeout=20)

    def meet(job: JobRecord, lease: LeaseHandle) -> None:
        together.wait()

    ids = await add_jobs(queue, 8)
    async with working(queue, meet, concurrency=4):
        assert await finish(queue, *ids) == [None] * 8


async def test_plain_handlers_fail_like_async_ones(queue: Queue) -> None:
    def fail(job: JobRecord, lease: LeaseHandle) -> None:
        match job.payload:
            case b"0":
                raise ValueError("broken")
            case b"1":
                raise RetryAfter(60, "later")
            case _:
                raise PermanentFailure("hopeless")

    failing, later, hopeless = await add_jobs(queue, 3)
    async with working(queue, fail):
        (dead,) = await finish(queue, hopeless)
    assert dead is not None
    assert dead.last_error == "hopeless"
    jobs = [await queue.get_job(failing), await queue.get_job(later)]
    assert [job.last_error for job in jobs if job] == ["ValueError: broken", "later"]


@pytest.mark.parametrize("in_executor", [False, True], ids=["worker thread", "executor"])
async def test_ensure_at_least_from_the_thread(
    queue: Queue, mock_clock: MockClock, in_executor: bool
) -> None:
    results: list[object] = []
    may_go_on = threading.Event()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        lease.ensure_at_least(3600)
        results.append(lease.expires_at)
        lease.ensure_at_least(1)
        results.append(lease.expires_at)
        loop.call_soon_threadsafe(asked.set)
        assert may_go_on.wait(20)
        results.append(lease.cancel_token.cancelled)
        try:
            lease.ensure_at_least(7200)
        except CancelRequested as error:
            results.append(error.job_id)

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    expected = mock_clock.now() + timedelta(hours=1)
    with ThreadPoolExecutor(1) as threads:
        async with working(queue, handle, executor=threads if in_executor else None):
            await asked.wait()
            assert await queue.lease_expiry(job_id) == expected
            await queue.cancel(job_id)
            may_go_on.set()
            assert await finish(queue, job_id) == [None]
    assert results == [expected, expected, True, job_id]


async def test_a_thread_that_lost_its_claim_is_told(queue: Queue, mock_clock: MockClock) -> None:
    started, told = asyncio.Event(), asyncio.Event()
    may_go_on = threading.Event()
    loop = asyncio.get_running_loop()
    errors: list[Exception] = []

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        if job.attempts > 1:
            return
        loop.call_soon_threadsafe(started.set)
        assert may_go_on.wait(20)
        try:
            lease.ensure_at_least(60)
        except ClaimLost as error:
            errors.append(error)
        loop.call_soon_threadsafe(told.set)

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, handle, timeout=5, concurrency=2):
        await started.wait()
        await mock_clock.advance(5)
        await mock_clock.advance(2)
        # The thread cannot be stopped, but its job was retried without it.
        assert await finish(queue, job_id) == [None]
        may_go_on.set()
        await told.wait()
    assert [str(error) for error in errors] == [
        f"the claim on job '{job_id}' is lost: "
        "it was settled, or its lease expired and was taken back"
    ]


# -- executors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def look_around(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    """Runs in another process: everything it uses has to have got there."""
    lease.ensure_at_least(10**6)
    assert lease.expires_at is None
    assert not lease.cancel_token.cancelled
    assert (job.status, job.attempts, dict(job.headers)) == (JobStatus.CLAIMED, 1, {"h": "v"})
    return note(job)


def fail_over_there(job: JobRecord, lease: LeaseHandle) -> None:
    match job.payload:
        case b"0":
            raise ValueError("broken")
        case b"1":
            raise PermanentFailure("hopeless")
        case _:
            raise RetryAfter(60, "later")


def returns_coroutine(job: JobRecord, lease: LeaseHandle) -> Any:
    return as_coroutine(job, lease)


async def test_a_process_pool(queue: Queue, processes: Executor) -> None:
    (job_id,) = await add_jobs(queue, 1, headers={"h": "v"}, max_attempts=1)
    async with working(queue, look_around, executor=processes):
        assert await finish(queue, job_id) == [None]
    value = await queue.kv_get("0")
    assert value is not None
    assert int(value.split()[0]) != os.getpid()


async def test_a_picklable_object_in_a_process_pool(queue: Queue, processes: Executor) -> None:
    process, _ = await where_it_ran(queue, PlainObject(), executor=processes)
    assert process != os.getpid()


async def test_outcomes_come_back_from_another_process(queue: Queue, processes: Executor) -> None:
    failing, hopeless, later = await add_jobs(queue, 3)
    async with working(queue, fail_over_there, executor=processes):
        (dead,) = await finish(queue, hopeless)
    assert dead is not None
    assert dead.last_error == "hopeless"
    jobs = [await queue.get_job(failing), await queue.get_job(later)]
    assert [job.last_error for job in jobs if job] == ["ValueError: broken", "later"]


async def test_a_thread_pool(queue: Queue) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as threads:
        names: list[str] = []

        def handle(job: JobRecord, lease: LeaseHandle) -> None:
            names.append(threading.current_thread().name)

        ids = await add_jobs(queue, 3)
        async with working(queue, handle, executor=threads):
            await finish(queue, *ids)
        assert names == ["mine_0"] * 3


async def test_what_a_function_in_a_thread_pool_returns_to_be_awaited_is_awaited(
    queue: Queue,
) -> None:
    with ThreadPoolExecutor(1) as threads:
        where = await where_it_ran(queue, decorated(as_coroutine), executor=threads)
    assert where == (os.getpid(), threading.get_ident())


async def test_what_another_process_returns_to_be_awaited_is_refused(
    queue: Queue, processes: Executor
) -> None:
    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, returns_coroutine, executor=processes):
        (dead,) = await finish(queue, job_id)
    assert dead is not None
    assert dead.last_error is not None
    assert "drop executor=" in dead.last_error


async def test_an_async_handler_in_an_executor_is_refused(queue: Queue) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(InvalidArgument, match=r"async handler.*executor"),
    ):
        async with working(queue, as_coroutine, executor=threads) as task:
            await task


# -- in unit tests ------------------------------------------------------------------------------


async def test_a_detached_lease_is_enough_to_call_a_handler(queue: Queue) -> None:
    lease = LeaseHandle.detached()
    lease.ensure_at_least(60)
    lease.on_end(lambda: pytest.fail("it holds nothing that could end"))
    assert lease.expires_at is None
    assert not lease.cancel_token.cancelled
    with pytest.raises(InvalidArgument):
        lease.ensure_at_least(-1)
    await add_jobs(queue, 1)
    claim = await queue.claim("q")
    assert claim is not None
    assert as_function(claim.job, lease).kv_writes.keys() == {b"0"}
