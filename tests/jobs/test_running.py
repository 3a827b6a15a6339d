"""Where functions run, what bounds them, and what is around them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

from taquba import (
    CancelOutcome,
    FailWith,
    InvalidArgument,
    InvalidArgumentType,
    JobStatus,
    PermanentFailure,
    Queue,
    QueueConfig,
    QueueReader,
    RetryAfter,
    SettlementEffects,
    Snooze,
)
from taquba.testing import MockClock
from taquba_jobs import (
    DetachedContext,
    FailureKind,
    JobContext,
    JobFailed,
    JobRunner,
    JobState,
    SubmitOptions,
    fetch_progress,
    gather,
    job,
)
from tests.jobs.support import Deps, dead, double, entries, until, wait
from tests.queue.support import fresh_url
from tests.worker.support import Panic

OpenQueue = Callable[..., Awaitable[Queue]]


@job(name="where")
def where(ctx: JobContext) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


@job(name="meet")
def meet(ctx: JobContext[threading.Barrier]) -> int:
    return ctx.state.wait(timeout=10)


@job(name="about")
def about(ctx: JobContext) -> tuple[str, str, int, dict[str, str]]:
    return ctx.job_id, ctx.name, ctx.attempt, dict(ctx.headers)


@job(name="use.owner")
def use_owner(ctx: JobContext, what: str) -> object:
    if what == "progress":
        ctx.progress(1)
    return getattr(ctx, what)


@job(name="die", max_attempts=2)
def die_once(ctx: JobContext, flag: str) -> int:
    if not Path(flag).exists():
        Path(flag).touch()
        os._exit(1)
    return ctx.attempt


@job(name="family")
def family(ctx: JobContext[Deps], number: int) -> int:
    """A plain function that submits and awaits from its thread."""

    async def child() -> int:
        return await (await ctx.submit(double, number))

    return anyio.from_thread.run(child)


async def test_a_plain_function_runs_in_a_thread_of_its_own(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[where]) as runner:
        process, thread = await (await runner.submit(where))
    assert process == os.getpid()
    assert thread != threading.get_ident()


async def test_as_many_threads_run_as_concurrency_says(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[meet], state=threading.Barrier(5), concurrency=5) as runner:
        handles = [await runner.submit(meet) for _ in range(5)]
        assert sorted(await gather(handles)) == [0, 1, 2, 3, 4]


@pytest.fixture
def pool() -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        yield executor


async def test_a_process_pool_runs_plain_functions(queue: Queue, pool: ProcessPoolExecutor) -> None:
    async with JobRunner(queue, jobs=[where, about, use_owner], executor=pool) as runner:
        process, _ = await (await runner.submit(where))
        assert process != os.getpid()
        handle = await runner.submit_with(SubmitOptions(headers={"tenant": "t1"}), about)
        job_id, name, attempt, headers = await handle
        assert (job_id, name, attempt, headers["tenant"]) == (handle.id, "about", 1, "t1")
        for what in ("state", "store", "progress"):
            failing = await runner.submit_with(SubmitOptions(max_attempts=1), use_owner, what)
            with pytest.raises(JobFailed, match=rf"DetachedContext: ctx\.{what} is not available"):
                await failing


async def test_a_worker_process_that_dies_ends_the_runner_and_spends_no_attempt(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    flag = str(tmp_path / "died")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as first:
        runner = JobRunner(queue, jobs=[die_once], executor=first)
        handle = await runner.submit_with(SubmitOptions(max_attempts=1), die_once, flag)
        with pytest.raises(BrokenExecutor, match="abruptly"):
            await runner.run()
    # A process pool does not recover; the next one takes the job up.
    record = await queue.get_job(handle.id)
    assert record is not None
    assert (record.status.value, record.attempts) == ("pending", 0)
    with ProcessPoolExecutor(1, context) as second:
        async with JobRunner(queue, jobs=[die_once], executor=second) as runner:
            await queue.wait_for_completion(handle.id, 20)
            assert await runner.handle(die_once, handle.id) == 1


async def test_an_executor_of_threads_has_the_whole_context(queue: Queue) -> None:
    with ThreadPoolExecutor(2) as executor:
        async with JobRunner(
            queue, jobs=[meet], state=threading.Barrier(1), executor=executor
        ) as r:
            assert await (await r.submit(meet)) == 0


async def test_a_job_submits_others_also_from_a_thread(queue: Queue) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[family, double], state=deps) as runner:
        assert await (await runner.submit(family, 21)) == 42


async def test_a_function_may_close_over_variables(queue: Queue) -> None:
    factor = 3

    @job(name="closure")
    async def multiply(ctx: JobContext, number: int) -> int:
        return factor * number

    async with JobRunner(queue, jobs=[multiply]) as runner:
        assert await (await runner.submit(multiply, 4)) == 12


async def test_jobs_may_have_their_own_queue(queue: Queue) -> None:
    @job(name="own", queue="own.queue")
    async def own(ctx: JobContext[Deps]) -> str:
        return ctx.job_id

    async with JobRunner(queue, jobs=[own, double], state=Deps()) as runner:
        await gather([await runner.submit(own), await runner.submit(own)])
        await (await runner.submit(double, 1))
    assert (await queue.stats("own.queue")).done == 2
    assert (await queue.stats("jobs")).done == 1


async def test_options_of_a_job_and_of_a_submission(queue: Queue) -> None:
    @job(name="opt", max_attempts=7, priority=5)
    async def opt(ctx: JobContext) -> None: ...

    runner = JobRunner(queue, jobs=[opt])
    plain = await queue.get_job((await runner.submit(opt)).id)
    options = SubmitOptions(max_attempts=1, priority=9, delay=60, headers={"a": "b"})
    other = await queue.get_job((await runner.submit_with(options, opt)).id)
    assert plain is not None
    assert other is not None
    assert (plain.max_attempts, plain.priority, plain.status) == (7, 5, JobStatus.PENDING)
    assert (other.max_attempts, other.priority, other.status) == (1, 9, JobStatus.SCHEDULED)
    assert other.headers == {"a": "b", "jobs.name": "opt", "jobs.version": "1"}


# -- time-outs and cancellation -------------------------------------------------------------------


@job(name="slow", timeout=5, max_attempts=1)
async def slow(ctx: JobContext[Deps]) -> None:
    ctx.state.calls.append("begun")
    await ctx.state.gate.wait()


async def test_a_timeout_ends_the_attempt_on_the_queues_clock(
    queue: Queue, mock_clock: MockClock
) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[slow], state=deps) as runner:
        handle = await runner.submit(slow)
        await until(lambda: bool(deps.calls))
        await mock_clock.advance(4.9)
        assert await handle.status() is JobState.RUNNING
        await mock_clock.advance(0.1)
        with pytest.raises(JobFailed, match="longer than its timeout of 5 s") as failed:
            await handle
    assert failed.value.kind is FailureKind.TIMED_OUT


async def test_cancelling_a_running_job_stops_its_function_and_frees_its_key(queue: Queue) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[wait], state=deps) as runner:
        handle = await runner.submit(wait, "x")
        await until(lambda: bool(deps.calls))
        assert await handle.cancel() is CancelOutcome.REQUESTED
        with pytest.raises(JobFailed, match="cancelled while it ran") as failed:
            await handle
        assert failed.value.kind is FailureKind.CANCELLED
        assert [letter.id for letter in await dead(queue)] == [handle.id]
        assert await handle.cancel() is CancelOutcome.NOT_FOUND
        deps.gate.set()
        again = await runner.submit(wait, "x")
        assert again.new
        assert await again == "x"


@job(name="cleanup")
async def cleanup(ctx: JobContext[Deps]) -> str:
    try:
        ctx.state.calls.append("begun")
        await ctx.state.gate.wait()
    except asyncio.CancelledError:
        return "cleaned up"
    return "undisturbed"


async def test_a_function_may_turn_its_cancellation_into_a_result(queue: Queue) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[cleanup], state=deps) as runner:
        handle = await runner.submit(cleanup)
        await until(lambda: bool(deps.calls))
        await handle.cancel()
        assert await handle == "cleaned up"


ENDINGS: dict[str, Callable[[], BaseException]] = {
    "an error": lambda: RuntimeError("stopped"),
    "a retry": lambda: RetryAfter(1),
    "a snooze": lambda: Snooze(1),
    "a permanent failure": lambda: PermanentFailure("stopped"),
    "effects": lambda: FailWith("stopped", SettlementEffects(kv_writes={"note": b"stopped"})),
    "nothing but an exception": lambda: Panic("stopped"),
}


@job(name="stops", idempotency_key=lambda how: "k")
async def stops(ctx: JobContext[Deps], how: str) -> None:
    ctx.state.calls.append(how)
    await ctx.cancel_token.wait()
    raise ENDINGS[how]()


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_cancelled_job_ends_as_cancelled_whatever_its_function_raises(
    queue: Queue, how: str
) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[stops], state=deps) as runner:
        handle = await runner.submit(stops, how)
        await until(lambda: bool(deps.calls))
        await handle.cancel()
        with pytest.raises(JobFailed) as failed:
            await handle
        assert failed.value.kind is FailureKind.CANCELLED
        assert await queue.kv_get("note") == (b"stopped" if how == "effects" else None)
        # Its key is free again.
        assert (await runner.submit_with(SubmitOptions(delay=3600), stops, how)).new


async def test_a_cancelled_job_that_is_lost_with_its_worker_was_cancelled(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1))
    runner = JobRunner(queue, jobs=[stops], state=Deps())
    handle = await runner.submit(stops, "an error")
    assert await queue.claim("jobs", lease=5) is not None
    assert await handle.cancel() is CancelOutcome.REQUESTED
    await mock_clock.advance(6)
    with pytest.raises(JobFailed) as failed:
        await handle.join(10)
    assert failed.value.kind is FailureKind.CANCELLED
    assert (await runner.submit(stops, "an error")).new


@job(name="watch")
def watch(ctx: JobContext[list[str]]) -> str:
    ctx.state.append("begun")
    while not ctx.cancel_token.cancelled:
        threading.Event().wait(0.001)
    ctx.state.append("seen")
    return "stopped"


async def test_a_thread_sees_that_its_job_was_cancelled(queue: Queue) -> None:
    seen: list[str] = []
    async with JobRunner(queue, jobs=[watch], state=seen) as runner:
        handle = await runner.submit(watch)
        await until(lambda: bool(seen))
        await handle.cancel()
        with pytest.raises(JobFailed) as failed:
            await handle
        assert failed.value.kind is FailureKind.CANCELLED
        await until(lambda: len(seen) == 2)


async def test_shutdown_gives_running_jobs_back_unspent(queue: Queue) -> None:
    deps = Deps()
    async with JobRunner(queue, jobs=[wait], state=deps, drain_timeout=0) as runner:
        handle = await runner.submit(wait, "x")
        await until(lambda: bool(deps.calls))
    record = await queue.get_job(handle.id)
    assert record is not None
    assert (record.status, record.attempts) == (JobStatus.PENDING, 0)
    deps.gate.set()
    async with JobRunner(queue, jobs=[wait], state=deps) as runner:
        assert await runner.handle(wait, handle.id) == "x"


async def test_a_runner_that_is_left_by_an_error_does_not_wait_for_it_to_be_repeated(
    queue: Queue,
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with JobRunner(queue, jobs=[double], state=Deps()):
            raise ZeroDivisionError


# -- progress -------------------------------------------------------------------------------------


@job(name="progressive")
def progressive(ctx: JobContext[list[threading.Event]], steps: int) -> int:
    for step in range(steps):
        ctx.progress(step, steps, f"step {step}")
    begun, go_on = ctx.state
    begun.set()
    go_on.wait(10)
    return steps


async def test_progress_is_readable_while_a_job_runs_and_gone_afterwards(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    events = [threading.Event(), threading.Event()]
    runner = JobRunner(queue, jobs=[progressive], state=events)
    handle = await runner.submit(progressive, 100)
    assert await handle.progress() is None
    async with runner:
        await asyncio.to_thread(events[0].wait, 10)
        await mock_clock.advance(0)
        first = await handle.progress()
        assert first is not None
        # The first report at once, the newest a second later, none of those in between.
        assert (first.done, first.total, first.note) == (0, 100, "step 0")
        assert first.reported_at == mock_clock.now()
        await mock_clock.advance(1)
        newest = await handle.progress()
        assert newest is not None
        assert newest.done == 99
        async with QueueReader.open(url) as reader:
            seen = await fetch_progress(reader, handle.id)
            assert seen is not None
            assert seen.note == "step 99"
        events[1].set()
        assert await handle == 100
        assert await handle.progress() is None


async def test_the_progress_of_an_earlier_attempt_is_removed_as_well(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))

    @job(name="report.once", max_attempts=2)
    async def report_once(ctx: JobContext, fail: bool) -> None:
        if ctx.attempt == 1:
            ctx.progress(1)
            row = f"jobs/progress/{ctx.job_id}"
            while await ctx.store.kv_get(row) is None:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.001)
            raise ConnectionError

    async with JobRunner(queue, jobs=[report_once]) as runner:
        await (await runner.submit(report_once, True))
    assert [key for key, _ in await entries(queue, "jobs/progress/")] == []


# -- middleware and state -------------------------------------------------------------------------


async def test_middleware_wraps_every_function_and_may_change_its_state(queue: Queue) -> None:
    log: list[str] = []

    async def outer(ctx: JobContext[str], call_next: Any) -> object:
        log.append(f"{ctx.name} begins")
        result = await call_next(ctx)
        log.append(f"{ctx.name} ends with {result}")
        return result

    async def inner(ctx: JobContext[str], call_next: Any) -> object:
        return await call_next(ctx.with_state(f"{ctx.state} for {ctx.name}"))

    @job(name="tell")
    async def tell(ctx: JobContext[str]) -> str:
        return ctx.state

    async with JobRunner(queue, jobs=[tell], state="state", middleware=[outer, inner]) as runner:
        assert await (await runner.submit(tell)) == "state for tell"
    assert log == ["tell begins", "tell ends with state for tell"]


async def test_what_is_raised_beside_exceptions_fails_the_job_too(queue: Queue) -> None:
    @job(name="panic", max_attempts=1)
    async def panic(ctx: JobContext[Deps]) -> None:
        raise Panic("index out of bounds")

    async with JobRunner(queue, jobs=[panic], state=Deps()) as runner:
        with pytest.raises(JobFailed, match="Panic: index out of bounds"):
            await (await runner.submit(panic))


async def test_an_error_of_middleware_fails_the_attempt(queue: Queue) -> None:
    async def refuse(ctx: JobContext[Deps], call_next: Any) -> object:
        raise PermissionError("not today")

    runner = JobRunner(
        queue,
        jobs=[double],
        state=Deps(),
        middleware=[refuse],
        classify=lambda error: "permanent" if isinstance(error, PermissionError) else "transient",
    )
    async with runner:
        with pytest.raises(JobFailed, match="PermissionError: not today"):
            await (await runner.submit(double, 1))


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": ""}, InvalidArgument, "1 to 128 characters"),
        ({"name": "a/b"}, InvalidArgument, "'a/b'"),
        ({"name": 5}, InvalidArgument, "got 5"),
        ({"version": 0}, InvalidArgument, "got 0"),
        ({"version": "2"}, InvalidArgumentType, "'2'"),
        ({"version": 2, "upcast": {2: dict}}, InvalidArgument, "from 1; got 2"),
        ({"timeout": 0}, InvalidArgument, "the timeout of job 'x'"),
        ({"max_attempts": 0}, InvalidArgument, "max_attempts"),
        ({"priority": -1}, InvalidArgument, "priority"),
        ({"queue": "a\nb"}, InvalidArgument, "control characters"),
    ],
)
def test_bad_definitions_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):

        @job(**{"name": "x", **options})
        async def function(ctx: JobContext) -> None: ...


def test_a_function_without_a_context_is_refused() -> None:
    with pytest.raises(InvalidArgumentType, match="must take its context first"):
        job(name="x")(lambda: None)  # type: ignore[arg-type, misc]
    with pytest.raises(InvalidArgumentType, match="must be made from a function, not from 5"):
        job(name="x")(5)  # type: ignore[arg-type]


async def test_bad_runners_are_refused(queue: Queue) -> None:
    for options, says in (
        ({"jobs": [double, double, wait, where.function]}, "each of jobs must be a Job"),
        ({"jobs": [double], "concurrency": 0}, "concurrency must be at least 1"),
        ({"jobs": [double], "result_retention": 0}, "result_retention"),
        ({"jobs": [double], "queue_name": ""}, "queue name"),
    ):
        with pytest.raises(InvalidArgument if "each" not in says else TypeError, match=says):
            JobRunner(queue, state=Deps(), **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentType, match="store must be a Store"):
        JobRunner("queue", jobs=[])  # type: ignore[arg-type]

    @job(name="double")
    async def namesake(ctx: JobContext) -> None: ...

    with pytest.raises(InvalidArgument, match="two of the jobs have the name 'double'"):
        JobRunner(queue, jobs=[double, namesake], state=Deps())


def test_headers_of_the_package_are_reserved() -> None:
    with pytest.raises(InvalidArgument, match=r"'jobs\.name'"):
        SubmitOptions(headers={"jobs.name": "x"})
    with pytest.raises(InvalidArgument, match="not both"):
        SubmitOptions(delay=1, run_at=MockClock().now())


def test_a_detached_context_is_for_unit_tests() -> None:
    ctx = JobContext.detached(5)
    assert ctx.state == 5
    ctx.progress(1)
    with pytest.raises(DetachedContext, match=r"ctx\.store"):
        _ = ctx.store
