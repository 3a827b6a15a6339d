"""The machine's clock is set back an hour, or forward, under an owner at work."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taquba import JobRecord, LeaseHandle, Queue, QueueConfig, run_worker
from taquba.testing import MockClock
from tests.crash.audit import audit
from tests.queue.support import OpenQueue, must_claim

HOUR = timedelta(hours=1)


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Queue:
    return await open_queue(
        default_config=QueueConfig(
            retry_backoff_base=10, retry_jitter=0, keep_done_jobs=HOUR, dead_retention=HOUR
        )
    )


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
async def test_jobs_keep_their_order_and_none_is_lost_or_doubled(
    queue: Queue, mock_clock: MockClock, jump: timedelta
) -> None:
    enqueued: list[str] = []
    ran: list[str] = []
    stop = asyncio.Event()

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        ran.append(job.id)
        if len(ran) == 60:
            stop.set()

    for number in range(60):
        if number in (20, 40):
            await mock_clock.set_time(mock_clock.now() + jump)
        enqueued.append((await queue.enqueue("q", b"%d" % number)).id)
    assert enqueued == sorted(enqueued)
    await run_worker(queue, "q", handler, shutdown=stop)
    assert ran == enqueued
    state = await audit(queue)
    assert state.counters["q"].done == 60


async def test_a_lease_lasts_as_long_as_it_should(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=60)
    await mock_clock.set_time(mock_clock.now() - HOUR)
    await mock_clock.advance(59)
    await queue.renew_lease(claim, 60)
    await mock_clock.set_time(mock_clock.now() + 2 * HOUR)
    assert await queue.claim("q") is None
    await mock_clock.advance(61)
    assert (await must_claim(queue)).attempts == 2


async def test_a_retry_waits_an_hour_longer_at_most(queue: Queue, mock_clock: MockClock) -> None:
    # It waits for a time of day, which comes again.
    await queue.enqueue("q", b"")
    await queue.nack(await must_claim(queue), "again")
    await mock_clock.set_time(mock_clock.now() - HOUR)
    await mock_clock.advance(11)
    assert await queue.claim("q") is None
    await mock_clock.advance(HOUR)
    assert (await must_claim(queue)).attempts == 2


async def test_finished_jobs_are_kept_no_shorter(queue: Queue, mock_clock: MockClock) -> None:
    job_id, _ = await queue.enqueue("q", b"")
    await queue.ack(await must_claim(queue))
    await mock_clock.set_time(mock_clock.now() - HOUR)
    await mock_clock.advance(timedelta(minutes=90))
    assert await queue.get_job(job_id) is not None
    await mock_clock.advance(timedelta(minutes=31))
    assert await queue.get_job(job_id) is None
