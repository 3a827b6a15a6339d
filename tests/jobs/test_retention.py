"""Outcomes are forgotten when their time is over, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from taquba import JobNotFound, Queue, QueueConfig, QueueReader
from taquba.testing import MockClock
from taquba_jobs import (
    JobContext,
    JobFailed,
    JobRunner,
    JobState,
    SubmitOptions,
    fetch_result,
    gather,
    job,
)
from tests.jobs.support import Deps, dead, double, entries, flaky
from tests.queue.support import fresh_url

OpenQueue = Callable[..., Awaitable[Queue]]


@job(name="blob", idempotency_key=lambda size: str(size))
async def blob(ctx: JobContext, size: int) -> bytes:
    return bytes(size)


def deps_runner(queue: Queue, deps: Deps, days: float | None = 1) -> JobRunner[Deps]:
    retention = None if days is None else timedelta(days=days)
    return JobRunner(queue, jobs=[double, flaky, blob], state=deps, result_retention=retention)


async def test_after_retention_nothing_is_left_and_a_key_runs_again(
    queue: Queue, mock_clock: MockClock
) -> None:
    deps = Deps()
    async with deps_runner(queue, deps) as runner:
        handle = await runner.submit(double, 5)
        large = await runner.submit(blob, 100_000)
        await gather([handle, large])
        await mock_clock.advance(timedelta(hours=23, minutes=59))
        assert await handle.fetch_result() == 10
        assert not (await runner.submit(double, 5)).new
        await mock_clock.advance(60)
        assert await handle.fetch_result() is None
        assert await handle.status() is None
        assert await large.fetch_result() is None
        with pytest.raises(JobNotFound):
            await handle
        assert await entries(queue) == []
        assert [info async for info in queue.objects.list()] == []
        again = await runner.submit(double, 5)
        assert again.new
        assert await again == 10
    assert deps.calls == [5, 5]


async def test_retention_counts_by_the_clock_also_where_nobody_swept(
    queue: Queue, mock_clock: MockClock
) -> None:
    deps = Deps()
    runner = deps_runner(queue, deps)
    async with runner:
        handle = await runner.submit(double, 5)
        await handle
    await mock_clock.advance(timedelta(days=2))
    assert await entries(queue) != []
    assert await handle.fetch_result() is None
    again = await runner.submit(double, 5)
    assert again.new
    # The sweep of the first one's end leaves the second alone.
    async with runner:
        assert await again == 10
        await mock_clock.advance(1)
        assert await again.fetch_result() == 10
        assert not (await runner.submit(double, 5)).new


async def test_the_next_owner_sweeps_what_became_due_meanwhile(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    async with deps_runner(queue, Deps()) as runner:
        await gather([await runner.submit(double, n) for n in range(300)])
    await queue.close()
    await mock_clock.advance(timedelta(hours=12))
    queue = await open_queue(url)
    async with deps_runner(queue, Deps()) as runner:
        await (await runner.submit(double, 1000))
        await mock_clock.advance(timedelta(hours=12))
        left = [key for key, _ in await entries(queue)]
    assert sorted(key.split("/")[1] for key in left) == ["expiry", "key", "outcome"]


async def test_without_retention_outcomes_stay(queue: Queue, mock_clock: MockClock) -> None:
    async with deps_runner(queue, Deps(), days=None) as runner:
        handle = await runner.submit(double, 5)
        await handle
        await mock_clock.advance(timedelta(days=30))
        assert await handle == 10
    assert await entries(queue, "jobs/expiry/") == []


async def test_an_object_that_no_outcome_names_is_removed(
    queue: Queue, mock_clock: MockClock
) -> None:
    """What a crash between the upload and the settlement leaves behind."""
    runner = deps_runner(queue, Deps())
    await runner._retention.put_away("lost-job", bytes(100_000))  # pyright: ignore[reportPrivateUsage]
    assert len([info async for info in queue.objects.list()]) == 1
    async with runner:
        await mock_clock.advance(timedelta(minutes=59))
        assert len([info async for info in queue.objects.list()]) == 1
        await mock_clock.advance(timedelta(minutes=1))
        assert [info async for info in queue.objects.list()] == []
        assert await entries(queue) == []


async def test_the_end_of_a_requeued_job_has_a_retention_of_its_own(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(
        default_config=QueueConfig(retry_backoff_base=0, dead_retention=timedelta(days=5))
    )
    deps = Deps(failures=1)
    async with deps_runner(queue, deps) as runner:
        handle = await runner.submit_with(SubmitOptions(max_attempts=1), flaky, "no route")
        with pytest.raises(JobFailed):
            await handle
        await mock_clock.advance(timedelta(hours=20))
        await queue.requeue_dead(handle.id)
        await mock_clock.advance(timedelta(hours=20))
        assert await handle.fetch_result() == 1
        await mock_clock.advance(timedelta(hours=4))
        assert await handle.fetch_result() is None
        assert await entries(queue) == []


async def test_setting_the_clock_back_keeps_outcomes_longer_not_for_ever(
    queue: Queue, mock_clock: MockClock
) -> None:
    async with deps_runner(queue, Deps()) as runner:
        handle = await runner.submit(double, 5)
        await handle
        await mock_clock.set_time(mock_clock.now() - timedelta(days=3))
        await mock_clock.advance(timedelta(days=3))
        assert await handle == 10
        await mock_clock.advance(timedelta(days=1))
        assert await handle.fetch_result() is None
        assert await entries(queue) == []


async def test_a_failure_is_forgotten_though_its_dead_letter_is_kept_longer(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=QueueConfig(dead_retention=timedelta(days=5)))
    async with deps_runner(queue, Deps(failures=1)) as runner:
        handle = await runner.submit_with(SubmitOptions(max_attempts=1), flaky, "no route")
        with pytest.raises(JobFailed, match="no route"):
            await handle
        await mock_clock.advance(timedelta(days=1))
        assert [record.id for record in await dead(queue)] == [handle.id]
        assert await handle.fetch_result() is None
        assert await fetch_result(queue, flaky, handle.id) is None
        async with QueueReader.open(url) as reader:
            assert await fetch_result(reader, flaky, handle.id) is None
        with pytest.raises(JobNotFound):
            await handle
        assert await handle.status() is JobState.FAILED
