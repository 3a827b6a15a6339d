"""Shutdown: stop claiming, let handlers finish, and give back what does not."""

from __future__ import annotations

import asyncio
import logging
import threading

import anyio
import pytest

from taquba import (
    AttemptOutcome,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    SettlementEffects,
    run_worker,
)
from taquba.testing import MockClock
from tests.queue.support import must_claim
from tests.worker.support import REAL_SECONDS, Gate, add_jobs


async def was_given_back(queue: Queue, job_id: str, attempts: int = 0) -> None:
    """The job waits again, its attempt is not spent, and its history says why it stopped."""
    job = await queue.get_job(job_id)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.PENDING, attempts)
    entry = (await queue.attempt_history(job_id))[-1]
    assert (entry.attempt, entry.outcome) == (attempts + 1, AttemptOutcome.INTERRUPTED)
    assert entry.error == "the worker shut down"


async def test_running_handlers_finish_and_nothing_new_starts(queue: Queue) -> None:
    gate = Gate()
    shutdown = asyncio.Event()
    ids = await add_jobs(queue, 4)
    task = asyncio.create_task(run_worker(queue, "q", gate, concurrency=2, shutdown=shutdown))
    await gate.starts(2)
    shutdown.set()
    await asyncio.sleep(0)
    assert not task.done()
    gate.open.set()
    async with asyncio.timeout(REAL_SECONDS):
        await task
    assert gate.started == ids[:2]
    stats = await queue.stats("q")
    assert (stats.done, stats.pending, stats.claimed) == (2, 2, 0)


async def test_without_a_drain_timeout_handlers_get_all_the_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()
    shutdown = asyncio.Event()
    await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", gate, shutdown=shutdown))
    await gate.starts(1)
    shutdown.set()
    # Longer than the lease too: it is kept during the drain.
    await mock_clock.advance(24 * 3600)
    assert not task.done()
    gate.open.set()
    await task
    assert (await queue.stats("q")).done == 1


async def test_after_the_drain_timeout_jobs_go_back_unspent(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()
    shutdown = asyncio.Event()
    ids = await add_jobs(queue, 2, max_attempts=1)
    task = asyncio.create_task(
        run_worker(queue, "q", gate, concurrency=2, shutdown=shutdown, drain_timeout=10)
    )
    await gate.starts(2)
    shutdown.set()
    await mock_clock.advance(9.999)
    assert not task.done()
    assert gate.cancelled == []
    await mock_clock.advance(0.001)
    await task
    assert sorted(gate.cancelled) == sorted(ids)
    for job_id in ids:
        await was_given_back(queue, job_id)
    # At once, in their old order, and with all their attempts.
    claims = await queue.claim_batch("q", 2)
    assert [(claim.id, claim.attempts) for claim in claims] == [(job_id, 1) for job_id in ids]


async def test_the_attempts_before_stay_counted(queue: Queue, mock_clock: MockClock) -> None:
    (job_id,) = await add_jobs(queue, 1)
    await queue.nack(await must_claim(queue), "once")
    await mock_clock.advance(2)
    gate = Gate()
    shutdown = asyncio.Event()
    task = asyncio.create_task(run_worker(queue, "q", gate, shutdown=shutdown, drain_timeout=0))
    await gate.starts(1)
    shutdown.set()
    await task
    await was_given_back(queue, job_id, attempts=1)
    assert [entry.attempt for entry in await queue.attempt_history(job_id)] == [1, 2]


async def test_what_finishes_in_time_is_settled(queue: Queue, mock_clock: MockClock) -> None:
    quick, slow = asyncio.Event(), asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        await (quick if job.payload == b"0" else slow).wait()

    shutdown = asyncio.Event()
    first, second = await add_jobs(queue, 2)
    task = asyncio.create_task(
        run_worker(queue, "q", handle, concurrency=2, shutdown=shutdown, drain_timeout=10)
    )
    await mock_clock.advance(0)
    shutdown.set()
    await mock_clock.advance(5)
    quick.set()
    await mock_clock.advance(5)
    await task
    assert await queue.get_job(first) is None
    await was_given_back(queue, second)


async def test_a_handler_that_finishes_in_spite_of_the_cancellation_is_acknowledged(
    queue: Queue,
) -> None:
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return SettlementEffects(kv_writes={"saved": b"in time"})
        raise AssertionError

    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", handle, shutdown=shutdown, drain_timeout=0))
    await started.wait()
    shutdown.set()
    await task
    assert await queue.get_job(job_id) is None
    assert await queue.kv_get("saved") == b"in time"


async def test_a_handler_that_fails_because_of_the_cancellation_spends_no_attempt(
    queue: Queue,
) -> None:
    """Many libraries turn a cancellation into an error of their own."""
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionError("the connection was closed") from None

    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    task = asyncio.create_task(run_worker(queue, "q", handle, shutdown=shutdown, drain_timeout=0))
    await started.wait()
    shutdown.set()
    await task
    await was_given_back(queue, job_id)


async def test_a_verdict_that_a_cancelled_handler_gives_counts(queue: Queue) -> None:
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise PermanentFailure("half done, must not run again") from None

    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", handle, shutdown=shutdown, drain_timeout=0))
    await started.wait()
    shutdown.set()
    await task
    job = await queue.get_job(job_id)
    assert job is not None
    assert (job.status, job.last_error) == (JobStatus.DEAD, "half done, must not run again")


async def test_a_thread_that_does_not_finish_is_left_behind(
    queue: Queue, mock_clock: MockClock
) -> None:
    started = asyncio.Event()
    may_end = threading.Event()
    loop = asyncio.get_running_loop()

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        loop.call_soon_threadsafe(started.set)
        assert may_end.wait(20)

    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", handle, shutdown=shutdown, drain_timeout=5))
    await started.wait()
    shutdown.set()
    await mock_clock.advance(5)
    await task
    may_end.set()
    await was_given_back(queue, job_id)


# -- cancellation of the loop itself ------------------------------------------------------------


async def test_cancelling_the_loop_gives_its_jobs_back(queue: Queue) -> None:
    gate = Gate()
    ids = await add_jobs(queue, 3, max_attempts=1)
    task = asyncio.create_task(run_worker(queue, "q", gate, concurrency=3))
    await gate.starts(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(gate.cancelled) == sorted(ids)
    for job_id in ids:
        await was_given_back(queue, job_id)


async def test_cancelling_the_loop_during_its_drain(queue: Queue) -> None:
    gate = Gate()
    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", gate, shutdown=shutdown))
    await gate.starts(1)
    shutdown.set()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await was_given_back(queue, job_id)


async def test_cancelling_an_anyio_scope_gives_the_jobs_back(queue: Queue) -> None:
    """anyio cancels again and again, at every await, until the scope is left."""
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1)
    async with anyio.create_task_group() as group:
        group.start_soon(run_worker, queue, "q", gate)
        await gate.starts(1)
        group.cancel_scope.cancel()
    assert gate.cancelled == [job_id]
    await was_given_back(queue, job_id)


async def test_a_timeout_around_the_loop(queue: Queue) -> None:
    gate = Gate()
    (job_id,) = await add_jobs(queue, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_worker(queue, "q", gate)
    if gate.started:
        await was_given_back(queue, job_id)


async def test_cancelling_in_any_turn_loses_no_job(queue: Queue, mock_clock: MockClock) -> None:
    (job_id,) = await add_jobs(queue, 1, max_attempts=10**6)
    for turns in range(40):
        gate = Gate()
        task = asyncio.create_task(run_worker(queue, "q", gate))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await mock_clock.advance(0)
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_jobs_left_behind_wake_another_worker(queue: Queue) -> None:
    gate = Gate()
    await add_jobs(queue, 1)
    leaving = asyncio.create_task(run_worker(queue, "q", gate))
    await gate.starts(1)
    staying = asyncio.create_task(run_worker(queue, "q", gate, poll_interval=3600))
    leaving.cancel()
    await gate.starts(2)
    staying.cancel()
    await asyncio.wait([leaving, staying])


async def test_a_drain_says_what_it_could_not_give_back(
    queue: Queue, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is gone while handlers run: the loop still ends."""
    gate = Gate()
    shutdown = asyncio.Event()
    await add_jobs(queue, 1)
    task = asyncio.create_task(run_worker(queue, "q", gate, shutdown=shutdown, drain_timeout=0))
    await gate.starts(1)
    with caplog.at_level(logging.WARNING):
        await queue.close()
        shutdown.set()
        async with asyncio.timeout(REAL_SECONDS):
            await asyncio.wait([task])
    assert gate.cancelled == gate.started
