from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taquba import EnqueueRequest, JobStatus, Queue, QueueConfig
from taquba.testing import MockClock
from tests.queue.support import (
    OpenQueue,
    fresh_url,
    kill_job,
    leftovers,
    must_claim,
    true_counts,
)

DAY = 24 * 3600


async def finish_one(queue: Queue, name: str = "q") -> str:
    await queue.enqueue(name, b"")
    claim = await must_claim(queue, name)
    await queue.ack(claim)
    return claim.id


async def test_dead_letters_go_after_seven_days(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", dedup_key="k", job_id="a")
    await kill_job(queue)
    await mock_clock.advance(7 * DAY - 0.001)
    assert await queue.get_job("a") is not None
    await mock_clock.advance(0.001)
    assert await queue.get_job("a") is None
    assert (await queue.stats("q")).dead == 0
    assert await queue.attempt_history("a") == []
    assert await leftovers(queue) == {}


async def test_dead_letters_stay_for_ever_without_a_retention(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(dead_retention=None))
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    await mock_clock.advance(timedelta(days=3650))
    assert await queue.sweep_now() == 0
    assert await queue.get_job("a") is not None
    assert (await queue.stats("q")).dead == 1


async def test_a_dead_retention_of_zero_keeps_nothing(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(dead_retention=0))
    await queue.enqueue("q", b"")
    await kill_job(queue)
    await mock_clock.advance(0.001)
    assert await leftovers(queue) == {}


async def test_done_jobs_stay_as_long_as_they_are_kept(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(queue_configs={"kept": QueueConfig(keep_done_jobs=60)})
    kept = await finish_one(queue, "kept")
    gone = await finish_one(queue, "q")
    assert await queue.get_job(kept) is not None
    assert await queue.get_job(gone) is None
    await mock_clock.advance(59.999)
    assert await queue.get_job(kept) is not None
    await mock_clock.advance(0.001)
    assert await queue.get_job(kept) is None
    assert (await queue.stats("kept")).done == 1
    assert await leftovers(queue) == {}


async def test_the_oldest_go_first(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(
        default_config=QueueConfig(keep_done_jobs=10, dead_retention=10),
        queue_configs={"slow": QueueConfig(keep_done_jobs=25)},
    )
    for _ in range(3):
        await finish_one(queue)
        await queue.enqueue("q", b"")
        await kill_job(queue)
        await finish_one(queue, "slow")
        await mock_clock.advance(4)
    # Now at 12 s; they ended at 0, 4 and 8.
    for left, slow in ((2, 3), (1, 3), (0, 3)):
        assert (await true_counts(queue, "q"))["done"] == left
        assert (await true_counts(queue, "q"))["dead"] == left
        assert (await true_counts(queue, "slow"))["done"] == slow
        await mock_clock.advance(4)
    await mock_clock.advance(20)
    assert await leftovers(queue) == {}


async def test_many_expire_at_once(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=10))
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 1100)
    while claims := await queue.claim_batch("q", 200):
        await asyncio.gather(*(queue.ack(claim) for claim in claims))
    assert (await true_counts(queue, "q"))["done"] == 1100
    await mock_clock.advance(10)
    assert await leftovers(queue) == {}


async def test_sweep_now_counts_what_it_removes(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=10, dead_retention=10))
    for _ in range(3):
        await finish_one(queue)
        await queue.enqueue("q", b"")
        await kill_job(queue)
    assert await queue.sweep_now() == 0
    # Moves time past the retention before the sweeper's own timer gets its turn.
    mock_clock._now += 10_000
    assert await queue.sweep_now() == 6
    assert await queue.sweep_now() == 0
    assert await leftovers(queue) == {}


async def test_retention_goes_on_after_a_reopen(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    config = QueueConfig(keep_done_jobs=60, dead_retention=60)
    queue = await open_queue(url, default_config=config)
    await finish_one(queue)
    await queue.enqueue("q", b"")
    await kill_job(queue)
    await queue.close()
    await mock_clock.advance(30)
    queue = await open_queue(url, default_config=config)
    await mock_clock.advance(29)
    assert (await true_counts(queue, "q"))["done"] == 1
    assert (await queue.stats("q")).dead == 1
    await mock_clock.advance(1)
    assert await leftovers(queue) == {}


async def test_what_expired_while_closed_goes_at_the_next_open(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=QueueConfig(keep_done_jobs=60))
    await finish_one(queue)
    await queue.close()
    await mock_clock.advance(3600)
    queue = await open_queue(url, default_config=QueueConfig(keep_done_jobs=60))
    await mock_clock.advance(0)
    assert await leftovers(queue) == {}


async def test_a_queue_that_no_longer_keeps_done_jobs_removes_the_old_ones(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url, default_config=QueueConfig(keep_done_jobs=DAY))
    await finish_one(queue)
    await queue.close()
    queue = await open_queue(url)
    await mock_clock.advance(1)
    assert await leftovers(queue) == {}


@pytest.mark.parametrize("rescue", ["requeue", "cancel"])
async def test_a_requeued_job_is_not_swept(
    queue: Queue, mock_clock: MockClock, rescue: str
) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    await mock_clock.advance(6 * DAY)
    await queue.requeue_dead("a")
    await mock_clock.advance(6 * DAY)
    job = await queue.get_job("a")
    assert job is not None
    assert job.status is JobStatus.PENDING
    if rescue == "cancel":
        await queue.cancel("a")
        assert await leftovers(queue) == {}
