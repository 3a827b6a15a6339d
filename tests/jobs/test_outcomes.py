"""How a job ends: what its submitter gets, and what is in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taquba import (
    FailWith,
    InvalidArgument,
    JobNotFound,
    ObjectDamaged,
    PermanentFailure,
    Queue,
    QueueConfig,
    QueueReader,
    RetryAfter,
    SettlementEffects,
)
from taquba.testing import MockClock
from taquba_jobs import (
    FailureKind,
    JobContext,
    JobFailed,
    JobRunner,
    JobState,
    SubmitOptions,
    Verdict,
    as_completed,
    fetch_result,
    fetch_status,
    gather,
    job,
)
from tests.jobs.support import Deps, dead, double, entries, flaky, shout, until, wait
from tests.payloads.support import damage, put_right
from tests.queue.support import fresh_url

OpenQueue = Callable[..., Awaitable[Queue]]


def deps_runner(queue: Queue, deps: Deps, **options: Any) -> JobRunner[Deps]:
    return JobRunner(queue, jobs=[double, shout, wait, flaky], state=deps, **options)


async def test_awaiting_a_handle_gives_the_result(queue: Queue) -> None:
    deps = Deps()
    async with deps_runner(queue, deps) as runner:
        handle = await runner.submit(shout, "hi", times=2)
        assert handle.new
        assert await handle == "HIHI"
        assert await handle == "HIHI"
        assert await handle.fetch_result() == "HIHI"
        assert await handle.status() is JobState.SUCCEEDED
    assert deps.calls == ["hi"]


async def test_a_job_is_still_a_function() -> None:
    assert await double(JobContext.detached(Deps()), 4) == 8
    assert double.__name__ == "double"


async def test_states_of_a_job(queue: Queue, mock_clock: MockClock) -> None:
    deps = Deps()
    runner = deps_runner(queue, deps)
    later = await runner.submit_with(SubmitOptions(delay=60), wait, "later")
    now = await runner.submit(wait, "now")
    assert await later.status() is JobState.SCHEDULED
    assert await now.status() is JobState.PENDING
    assert await now.fetch_result() is None
    async with runner:
        await until(lambda: bool(deps.calls))
        assert await now.status() is JobState.RUNNING
        deps.gate.set()
        assert await now == "now"
        await mock_clock.advance(60)
        assert await later == "later"
    assert await runner.handle(wait, "unknown").status() is None


async def test_join_gives_up_on_the_queues_clock_and_the_job_goes_on(
    queue: Queue, mock_clock: MockClock
) -> None:
    deps = Deps()
    async with deps_runner(queue, deps) as runner:
        handle = await runner.submit(wait, "x")
        joining = asyncio.create_task(handle.join(5))
        await mock_clock.advance(4.9)
        assert not joining.done()
        await mock_clock.advance(0.1)
        with pytest.raises(TimeoutError, match=handle.id):
            await joining
        deps.gate.set()
        assert await handle.join(5) == "x"


async def test_a_handle_of_nothing_says_so(queue: Queue) -> None:
    runner = deps_runner(queue, Deps())
    with pytest.raises(JobNotFound, match="unknown"):
        await runner.handle(double, "unknown")
    assert await runner.handle(double, "unknown").fetch_result() is None


async def test_a_failing_job_is_retried_and_its_result_is_that_of_the_last_attempt(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=10, retry_jitter=0))
    deps = Deps(failures=2)
    async with deps_runner(queue, deps) as runner:
        handle = await runner.submit(flaky, "no route")
        joined = asyncio.create_task(handle.join(1000))
        await mock_clock.advance(9)
        assert deps.calls == [1]
        assert await handle.fetch_result() is None
        await mock_clock.advance(1)
        await mock_clock.advance(20)
        assert await joined == 3
    assert deps.calls == [1, 2, 3]


async def test_a_job_that_keeps_failing_is_a_dead_letter_and_raises(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    async with deps_runner(queue, Deps(failures=9)) as runner:
        handle = await runner.submit(flaky, "no route")
        with pytest.raises(JobFailed) as failed:
            await handle
        assert failed.value.kind is FailureKind.ERROR
        assert failed.value.message == "ConnectionError: no route"
        assert failed.value.job_id == handle.id
        with pytest.raises(JobFailed, match="no route"):
            await handle.fetch_result()
        assert await handle.status() is JobState.FAILED
        [letter] = await dead(queue)
        assert (letter.id, letter.attempts) == (handle.id, 3)
        assert letter.last_error == "ConnectionError: no route"


@job(name="raise", max_attempts=2)
async def raise_it(ctx: JobContext[list[int]], how: str) -> None:
    ctx.state.append(ctx.attempt)
    match how:
        case "permanent":
            raise PermanentFailure("never")
        case "value":
            raise ValueError("bad \udcff value")
        case "later":
            raise RetryAfter(30, "busy")
        case "with":
            raise FailWith(PermanentFailure("never"), SettlementEffects(kv_writes={"own": b"1"}))
        case "cancelled":
            raise asyncio.CancelledError


async def test_a_permanent_failure_ends_the_job_at_once(queue: Queue) -> None:
    attempts: list[int] = []
    async with JobRunner(queue, jobs=[raise_it], state=attempts) as runner:
        with pytest.raises(JobFailed, match="never"):
            await (await runner.submit(raise_it, "permanent"))
    assert attempts == [1]


async def test_classify_says_which_exceptions_a_retry_may_help(queue: Queue) -> None:
    attempts: list[int] = []
    async with JobRunner(
        queue,
        jobs=[raise_it],
        state=attempts,
        classify=lambda error: "permanent" if isinstance(error, ValueError) else "transient",
    ) as runner:
        with pytest.raises(JobFailed, match=r"ValueError: bad \\udcff value"):
            await (await runner.submit(raise_it, "value"))
    assert attempts == [1]


class Odd(Exception):
    def __str__(self) -> str:
        raise AttributeError("response")


@job(name="odd", max_attempts=1)
async def odd(ctx: JobContext) -> None:
    raise Odd


def cannot_classify(error: Exception) -> Verdict:
    raise TypeError(str(type(error)))


async def test_a_job_ends_with_an_error_that_has_no_text_and_that_classify_fails_on(
    queue: Queue,
) -> None:
    async with JobRunner(queue, jobs=[odd], classify=cannot_classify) as runner:
        with pytest.raises(JobFailed, match=r"Odd \(without its message") as failed:
            await (await runner.submit(odd)).join(10)
    assert failed.value.kind is FailureKind.ERROR


async def test_retry_after_waits_as_long_as_it_says(queue: Queue, mock_clock: MockClock) -> None:
    attempts: list[int] = []
    async with JobRunner(queue, jobs=[raise_it], state=attempts) as runner:
        joined = asyncio.create_task((await runner.submit(raise_it, "later")).join(1000))
        await mock_clock.advance(29)
        assert attempts == [1]
        await mock_clock.advance(1)
        with pytest.raises(JobFailed, match="busy"):
            await joined
    assert attempts == [1, 2]


async def test_effects_of_a_function_that_fails_land_with_its_outcome(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[raise_it], state=[]) as runner:
        with pytest.raises(JobFailed, match="never"):
            await (await runner.submit(raise_it, "with"))
    assert await queue.kv_get("own") == b"1"


async def test_a_cancellation_that_comes_from_inside_is_a_failure(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    async with JobRunner(queue, jobs=[raise_it], state=[]) as runner:
        with pytest.raises(JobFailed, match="CancelledError") as failed:
            await (await runner.submit(raise_it, "cancelled"))
    assert failed.value.kind is FailureKind.ERROR


@job(name="blob")
async def blob(ctx: JobContext[list[int]], size: int) -> bytes:
    ctx.state.append(size)
    return bytes(size)


async def test_a_large_result_is_an_object_and_a_small_one_an_entry(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[blob], state=[]) as runner:
        small = await runner.submit(blob, 60_000)
        assert len(await small) == 60_000
        assert [info async for info in queue.objects.list()] == []
        large = await runner.submit(blob, 3_000_000)
        assert len(await large) == 3_000_000
        [info] = [info async for info in queue.objects.list()]
        assert info.key.startswith(f"jobs/results/{large.id}/")
        outcome = await queue.kv_get(f"jobs/outcome/{large.id}")
        assert outcome is not None
        assert len(outcome) < 1000


async def test_a_large_result_that_is_damaged_is_not_handed_out(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[blob], state=[]) as runner:
        handle = await runner.submit(blob, 100_000)
        await handle
        before = await damage(queue, "/objects/", lambda data: data[:50_000])
        for read in (handle, handle.fetch_result(), fetch_result(queue, blob, handle.id)):
            with pytest.raises(ObjectDamaged, match=f"jobs/results/{handle.id}/.* is damaged"):
                await read
        await put_right(queue, before)
        assert len(await handle) == 100_000


async def test_results_are_there_after_a_restart_and_for_a_reader(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    async with JobRunner(queue, jobs=[blob, raise_it], state=[]) as runner:
        ids = [(await runner.submit(blob, size)).id for size in (5, 300_000)]
        failing = (await runner.submit(raise_it, "permanent")).id
        for job_id in ids:
            await runner.handle(blob, job_id)
        with pytest.raises(JobFailed):
            await runner.handle(raise_it, failing)
    await queue.close()

    queue = await open_queue(url)
    runner = JobRunner(queue, jobs=[blob, raise_it], state=[])
    async with QueueReader.open(url) as reader:
        for job_id, size in zip(ids, (5, 300_000), strict=True):
            assert await runner.handle(blob, job_id) == bytes(size)
            assert await fetch_result(reader, blob, job_id) == bytes(size)
            assert await fetch_status(reader, job_id) is JobState.SUCCEEDED
        with pytest.raises(JobFailed, match="never"):
            await runner.handle(raise_it, failing)
        with pytest.raises(JobFailed, match="never"):
            await fetch_result(reader, raise_it, failing)
        assert await fetch_result(reader, blob, "unknown") is None
        assert await fetch_status(reader, "unknown") is None


async def test_a_job_whose_worker_lost_it_for_good_raises_too(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue()
    handle = await deps_runner(queue, Deps()).submit_with(SubmitOptions(max_attempts=1), double, 5)
    waiting = asyncio.create_task(handle.join(100))
    assert await queue.claim("jobs", lease=10)
    await mock_clock.advance(20)
    with pytest.raises(JobFailed, match="the lease expired") as failed:
        await waiting
    assert failed.value.kind is FailureKind.LOST
    assert await handle.status() is JobState.FAILED
    with pytest.raises(JobFailed, match="the lease expired"):
        await handle.fetch_result()


async def test_an_attempt_that_lost_its_job_does_not_touch_the_outcome(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    deps = Deps()
    slow = deps_runner(queue, deps)
    handle = await slow.submit(wait, "slow")
    async with slow:
        await until(lambda: bool(deps.calls))
        # As if its process had hung for longer than the lease: somebody else gets the job.
        lease = queue._owner.leases.get(handle.id)  # pyright: ignore[reportPrivateUsage]
        assert lease is not None
        lease.expires_at = 0
        assert await queue.reap_now() == 1
        await until(lambda: len(deps.calls) == 2)
        deps.gate.set()
        assert await handle == "slow"
    assert (await queue.stats("jobs")).done == 1
    outcomes = [key for key, _ in await entries(queue) if key.startswith("jobs/outcome/")]
    assert outcomes == [f"jobs/outcome/{handle.id}"]


async def test_a_drained_store_keeps_nothing_but_outcomes_and_their_expiry(queue: Queue) -> None:
    deps = Deps()
    async with deps_runner(queue, deps) as runner:
        handles = [await runner.submit(double, number) for number in range(3)]
        await gather(handles)
    kinds = [key.split("/")[1] for key, _ in await entries(queue)]
    assert sorted(kinds) == ["expiry"] * 3 + ["key"] * 3 + ["outcome"] * 3


async def test_gather_keeps_the_order_and_bounds_what_is_awaited() -> None:
    running: set[int] = set()
    most = 0

    async def work(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        await asyncio.sleep(0.001 * (number % 3))
        running.remove(number)
        return number

    assert await gather((work(number) for number in range(20)), concurrency=4) == list(range(20))
    assert most == 4


async def test_gather_ends_with_the_first_error() -> None:
    async def fail() -> None:
        raise ConnectionError

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ConnectionError):
        await gather(coroutine() for coroutine in (hang, fail))


async def test_as_completed_yields_in_the_order_of_ends(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue()
    async with deps_runner(queue, Deps(failures=9)) as runner:
        delays = [30, 10, 20]
        handles = [
            await runner.submit_with(SubmitOptions(delay=delay, max_attempts=1), flaky, str(delay))
            for delay in delays
        ]
        moving = asyncio.create_task(mock_clock.advance(60))
        messages: list[str] = []
        async for handle in as_completed(handles):
            with pytest.raises(JobFailed) as failed:
                await handle
            messages.append(failed.value.message[-2:])
        await moving
    assert messages == ["10", "20", "30"]


async def test_a_job_of_another_runner_is_refused(queue: Queue) -> None:
    runner = JobRunner(queue, jobs=[double], state=Deps())
    with pytest.raises(InvalidArgument, match="<job 'shout'> is not one of this runner's jobs"):
        await runner.submit(shout, "x")
