from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taquba import (
    AttemptOutcome,
    CancelRequested,
    ClaimLost,
    EnqueueRequest,
    JobStatus,
    Queue,
    QueueConfig,
    SettlementEffects,
)
from taquba.testing import MockClock
from tests.queue.support import OpenQueue, must_claim, rows


async def test_an_expired_lease_gives_the_job_back(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=10)
    await mock_clock.advance(9.999)
    assert (await queue.stats("q")).claimed == 1
    await mock_clock.advance(0.001)
    job = await queue.get_job(claim.id)
    assert job is not None
    # At once, without a backoff; the attempt counts.
    assert (job.status, job.attempts) == (JobStatus.PENDING, 1)
    (attempt,) = await queue.attempt_history(claim.id)
    assert attempt.outcome is AttemptOutcome.LEASE_EXPIRED
    assert attempt.recorded_at == mock_clock.now()
    assert (await must_claim(queue)).attempts == 2


async def test_the_last_attempts_expiry_dead_letters(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", max_attempts=1)
    claim = await must_claim(queue, lease=10)
    await mock_clock.advance(10)
    job = await queue.get_job(claim.id)
    assert job is not None
    assert job.status is JobStatus.DEAD
    assert job.last_error == "the lease expired"
    (attempt,) = await queue.attempt_history(claim.id)
    assert attempt.outcome is AttemptOutcome.LEASE_EXPIRED


async def test_every_one_of_many_leases_expires_in_its_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5)
    for seconds in (3, 1, 5, 2, 4):
        await must_claim(queue, lease=seconds)
    for back in range(1, 6):
        await mock_clock.advance(1)
        assert (await queue.stats("q")).pending == back


async def test_a_renewed_lease_lasts(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=10)
    await mock_clock.advance(9)
    expiry = await queue.renew_lease(claim, 60)
    assert expiry == mock_clock.now() + timedelta(seconds=60)
    assert await queue.lease_expiry(claim) == expiry
    await mock_clock.advance(59.999)
    await queue.ack(claim)


async def test_a_renewal_counts_from_now_and_may_shorten(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=1000)
    expiry = await queue.renew_lease(claim, timedelta(seconds=5))
    assert expiry == mock_clock.now() + timedelta(seconds=5)
    await mock_clock.advance(5)
    with pytest.raises(ClaimLost):
        await queue.renew_lease(claim, 5)


async def test_a_renewal_touches_no_store(queue: Queue) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    before = await rows(queue)
    await queue.renew_lease(claim, 500)
    assert await rows(queue) == before


async def test_a_lost_claim_cannot_be_renewed(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    await queue.ack(claim)
    with pytest.raises(ClaimLost, match="'a'"):
        await queue.renew_lease(claim, 5)


async def test_a_claim_that_settles_cannot_be_renewed(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    settling = asyncio.create_task(queue.ack(claim))
    await asyncio.sleep(0)
    with pytest.raises(ClaimLost, match=r"'a'.*under way"):
        await queue.renew_lease(claim, 5)
    await settling


async def test_a_job_asked_to_cancel_is_not_renewed(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue, lease=10)
    expiry = await queue.lease_expiry(claim)
    await queue.cancel("a")
    with pytest.raises(CancelRequested, match="'a'"):
        await queue.renew_lease(claim, 60)
    assert await queue.lease_expiry(claim) == expiry
    # The claim is still good for a settlement.
    await queue.ack(claim)


async def test_a_settlement_in_the_last_moment_wins(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=10)
    await mock_clock.advance(9.999)
    effects = SettlementEffects(enqueues=[EnqueueRequest("next", b"", dedup_key="k")])
    settling = asyncio.create_task(queue.ack(claim, effects))
    await asyncio.sleep(0)
    await mock_clock.advance(1)
    assert [result.new for result in await settling] == [True]
    assert (await queue.stats("q")).done == 1
    assert (await queue.stats("q")).pending == 0


async def test_lease_expiry_by_claim_and_by_id(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", job_id="a")
    assert await queue.lease_expiry("a") is None
    assert await queue.lease_expiry("unknown") is None
    claim = await must_claim(queue, lease=10)
    assert await queue.lease_expiry("a") == mock_clock.now() + timedelta(seconds=10)
    assert await queue.lease_expiry("a") == await queue.lease_expiry(claim)
    await queue.ack(claim)
    assert await queue.lease_expiry("a") is None
    assert await queue.lease_expiry(claim) is None


async def test_lease_expiry_of_a_lost_claim_is_not_that_of_the_next_holder(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"", job_id="a")
    lost = await must_claim(queue, lease=10)
    await mock_clock.advance(10)
    holder = await must_claim(queue)
    assert await queue.lease_expiry(lost) is None
    assert await queue.lease_expiry("a") == await queue.lease_expiry(holder) is not None


async def test_reap_now_takes_back_what_expired(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    await queue.claim_batch("q", 2, lease=5)
    assert await queue.reap_now() == 0
    # Moves time past the leases before the reaper's own timer gets its turn.
    mock_clock._now += 6_000
    assert await queue.reap_now() == 2
    assert (await queue.stats("q")).pending == 3


async def test_leases_outlive_any_reaper_interval(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """The interval bounds how late a lease is taken back; it is not a tick to wait for."""
    queue = await open_queue(
        reaper_interval=3600, default_config=QueueConfig(lease_duration=7, retry_backoff_base=0)
    )
    await queue.enqueue("q", b"")
    await must_claim(queue)
    await mock_clock.advance(7)
    assert (await queue.stats("q")).pending == 1


async def test_a_lease_of_a_hundred_years(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=timedelta(days=36_500))
    await mock_clock.advance(timedelta(days=365))
    await queue.ack(claim)
