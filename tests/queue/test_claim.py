from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from taquba import (
    CancelToken,
    Claim,
    EnqueueRequest,
    InvalidArgument,
    JobRecord,
    JobStatus,
    Queue,
    QueueClosed,
    QueueConfig,
)
from taquba._memory.window import Window
from taquba.testing import MockClock
from tests.crash.held_engine import hold_engine
from tests.queue.support import (
    OpenQueue,
    claimed_ids,
    fresh_url,
    leftovers,
    must_claim,
    rows,
    true_counts,
)


async def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    before = await rows(queue)
    assert await queue.claim("q") is None
    assert await queue.claim_batch("q", 10) == []
    assert await rows(queue) == before


async def test_a_claim_gives_the_records_attributes(queue: Queue, mock_clock: MockClock) -> None:
    enqueued_at = mock_clock.now()
    result = await queue.enqueue("q", b"payload", headers={"h": "v"}, priority=5, dedup_key="d")
    await mock_clock.advance(1)
    claim = await must_claim(queue)
    assert isinstance(claim, Claim)
    assert (claim.id, claim.queue, claim.payload) == (result.id, "q", b"payload")
    assert (claim.priority, claim.attempts, claim.max_attempts) == (5, 1, 3)
    assert (dict(claim.headers), claim.dedup_key) == ({"h": "v"}, "d")
    assert claim.enqueued_at == enqueued_at
    assert claim.claimed_at == mock_clock.now()
    assert isinstance(claim.job, JobRecord)
    assert claim.job.id == claim.id
    assert claim.job.status is JobStatus.CLAIMED
    assert isinstance(claim.cancel_token, CancelToken)
    assert not claim.cancel_token.cancelled
    assert claim.id in repr(claim)


async def test_a_claimed_job_is_seen_as_claimed(queue: Queue) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    job = await queue.get_job(claim.id)
    assert job == claim.job
    assert await queue.claim("q") is None
    assert (await queue.stats("q")).claimed == 1
    assert (await true_counts(queue, "q"))["claimed"] == 1


async def test_every_claim_counts_an_attempt(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    await queue.enqueue("q", b"")
    for attempt in (1, 2, 3):
        claim = await must_claim(queue)
        assert claim.attempts == attempt
        await queue.nack(claim, "no")


async def test_the_default_lease_is_the_queues(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(queue_configs={"q": QueueConfig(lease_duration=77)})
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    assert await queue.lease_expiry(claim) == mock_clock.now() + timedelta(seconds=77)


@pytest.mark.parametrize("lease", [5, timedelta(seconds=5)])
async def test_a_claim_chooses_its_lease(
    queue: Queue, mock_clock: MockClock, lease: float | timedelta
) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue, lease=lease)
    assert await queue.lease_expiry(claim) == mock_clock.now() + timedelta(seconds=5)


async def test_concurrent_claims_never_share_a_job(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 50)
    claims = await asyncio.gather(*(queue.claim("q") for _ in range(60)))
    ids = [claim.id for claim in claims if claim is not None]
    assert len(ids) == 50
    assert len(set(ids)) == 50


# -- batches ------------------------------------------------------------------------------------


async def test_a_batch_claims_the_first_jobs_in_order(queue: Queue, mock_clock: MockClock) -> None:
    results = await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5)
    ids = [result.id for result in results]
    claims = await queue.claim_batch("q", 3, lease=8)
    assert [claim.id for claim in claims] == ids[:3]
    expiry = mock_clock.now() + timedelta(seconds=8)
    assert [await queue.lease_expiry(claim) for claim in claims] == [expiry] * 3
    assert [claim.id for claim in await queue.claim_batch("q", 100)] == ids[3:]


async def test_the_claims_of_a_batch_settle_on_their_own(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    acked, failed, held = await queue.claim_batch("q", 3)
    await queue.ack(acked)
    await queue.dead_letter(failed, "broken")
    assert await true_counts(queue, "q") == {
        "pending": 0,
        "scheduled": 0,
        "claimed": 1,
        "done": 0,
        "dead": 1,
    }
    await queue.ack(held)


@pytest.mark.parametrize("max_jobs", [0, -1, 10_001, True, 1.5, None])
async def test_a_batch_size_out_of_range_is_refused(queue: Queue, max_jobs: object) -> None:
    await queue.enqueue("q", b"")
    with pytest.raises((InvalidArgument, TypeError), match=f"max_jobs.*{max_jobs}"):
        await queue.claim_batch("q", max_jobs)  # type: ignore[arg-type]
    assert (await queue.stats("q")).pending == 1


# -- waiting ------------------------------------------------------------------------------------


async def test_waiting_ends_with_a_job_at_once(queue: Queue) -> None:
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    job_id = (await queue.enqueue("q", b"")).id
    claim = await waiter
    assert claim is not None
    assert claim.id == job_id


async def test_waiting_does_not_wait_when_there_is_a_job(queue: Queue) -> None:
    await queue.enqueue("q", b"")
    assert await queue.claim("q", wait=60) is not None


@pytest.mark.parametrize("wait", [10, timedelta(seconds=10)])
async def test_waiting_ends_empty_handed_when_time_is_up(
    queue: Queue, mock_clock: MockClock, wait: float | timedelta
) -> None:
    waiter = asyncio.create_task(queue.claim("q", wait=wait))
    await mock_clock.advance(9.999)
    assert not waiter.done()
    await mock_clock.advance(0.001)
    assert waiter.done()
    assert await waiter is None


async def test_waiting_no_time_at_all_does_not_wait(queue: Queue) -> None:
    assert await queue.claim("q", wait=0) is None


async def test_a_job_that_becomes_due_wakes_a_waiter(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", delay=5)
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await mock_clock.advance(5)
    assert waiter.done()
    assert await waiter is not None


async def test_a_job_that_comes_back_wakes_a_waiter(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"")
    await must_claim(queue, lease=5)
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await mock_clock.advance(5)
    claim = await waiter
    assert claim is not None
    assert claim.attempts == 2


async def test_every_one_of_many_waiters_gets_one_job(queue: Queue) -> None:
    waiters = [asyncio.create_task(queue.claim("q", wait=60)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(*(queue.enqueue("q", b"") for _ in range(20)))
    claims = await asyncio.gather(*waiters)
    assert len({claim.id for claim in claims if claim is not None}) == 20


async def test_a_batch_of_jobs_wakes_as_many_waiters(queue: Queue, mock_clock: MockClock) -> None:
    waiters = [asyncio.create_task(queue.claim("q", lease=90, wait=60)) for _ in range(5)]
    await asyncio.sleep(0)
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    await mock_clock.advance(1)
    assert sum(waiter.done() for waiter in waiters) == 3
    await mock_clock.advance(60)
    claims = await asyncio.gather(*waiters)
    assert claims.count(None) == 2


async def test_a_waiting_batch_takes_what_is_there(queue: Queue) -> None:
    waiter = asyncio.create_task(queue.claim_batch("q", 10, wait=60))
    await asyncio.sleep(0)
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    assert len(await waiter) == 3


async def test_jobs_of_another_queue_wake_nobody(queue: Queue, mock_clock: MockClock) -> None:
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    await queue.enqueue("other", b"")
    await mock_clock.advance(59)
    assert not waiter.done()
    waiter.cancel()


async def test_a_cancelled_waiter_passes_its_wakeup_on(queue: Queue, mock_clock: MockClock) -> None:
    """Cancelled in whichever turn of the loop, a waiter must not swallow the job."""
    for turns in range(40):
        first, second = (asyncio.create_task(queue.claim("q", wait=60)) for _ in range(2))
        await asyncio.sleep(0)
        enqueue = asyncio.create_task(queue.enqueue("q", b""))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await enqueue
        await mock_clock.advance(1)
        if first.cancelled():
            claim = await second
        else:
            claim = await first
            second.cancel()
        assert claim is not None
        assert claim.attempts == 1
        await queue.ack(claim)
    assert await leftovers(queue) == {}


async def test_a_waiter_cancelled_while_it_claims_gives_the_job_back(
    queue: Queue, mock_clock: MockClock
) -> None:
    job_id = (await queue.enqueue("q", b"")).id
    claiming = asyncio.create_task(queue.claim("q"))
    other = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await mock_clock.advance(1)
    claim = await other
    assert claim is not None
    assert (claim.id, claim.attempts) == (job_id, 1)


async def test_closing_ends_a_wait(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    await queue.close()
    with pytest.raises(QueueClosed):
        await waiter


# -- wait_for_jobs_on ---------------------------------------------------------------------------


async def test_wait_for_jobs_on_is_true_at_once_when_there_is_a_job(queue: Queue) -> None:
    await queue.enqueue("b", b"")
    assert await queue.wait_for_jobs_on("a", "b", timeout=60)


async def test_wait_for_jobs_on_wakes_for_any_of_its_queues(queue: Queue) -> None:
    waiter = asyncio.create_task(queue.wait_for_jobs_on("a", "b", timeout=60))
    await asyncio.sleep(0)
    await queue.enqueue("b", b"")
    assert await waiter


async def test_wait_for_jobs_on_is_false_when_time_is_up(
    queue: Queue, mock_clock: MockClock
) -> None:
    waiter = asyncio.create_task(queue.wait_for_jobs_on("a", "b", timeout=5))
    await mock_clock.advance(4.999)
    assert not waiter.done()
    await mock_clock.advance(0.001)
    assert await waiter is False
    assert await queue.wait_for_jobs_on("a", timeout=0) is False


async def test_wait_for_jobs_on_takes_nothing_from_claimers(
    queue: Queue, mock_clock: MockClock
) -> None:
    looker = asyncio.create_task(queue.wait_for_jobs_on("q", timeout=60))
    await asyncio.sleep(0)
    claimer = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    await queue.enqueue("q", b"")
    await mock_clock.advance(1)
    assert await looker
    assert await claimer is not None


async def test_a_job_wakes_one_of_those_that_wait_for_jobs(
    queue: Queue, mock_clock: MockClock
) -> None:
    names = [("q",), ("q", "other"), ("other", "q"), ("q",), ("q",)]
    waiters = [asyncio.create_task(queue.wait_for_jobs_on(*some, timeout=60)) for some in names]
    await asyncio.sleep(0)

    async def woken() -> int:
        await mock_clock.advance(1)
        return sum(waiter.done() for waiter in waiters)

    await queue.enqueue("q", b"")
    assert await woken() == 1
    await queue.enqueue_batch([EnqueueRequest("q", b""), EnqueueRequest("q", b"")])
    assert await woken() == 3
    # One that is cancelled takes no wakeup with it.
    waiters[3].cancel()
    await queue.enqueue("q", b"")
    assert await woken() == 5
    assert await waiters[4]


async def test_those_that_only_look_keep_no_job_from_those_that_claim(
    queue: Queue, mock_clock: MockClock
) -> None:
    lookers = [asyncio.create_task(queue.wait_for_jobs_on("q", timeout=60)) for _ in range(3)]
    await asyncio.sleep(0)
    claimers = [asyncio.create_task(queue.claim("q", wait=60)) for _ in range(3)]
    await asyncio.sleep(0)
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    await mock_clock.advance(1)
    assert all([await claimer for claimer in claimers])
    for looker in lookers:
        looker.cancel()


async def test_wait_for_jobs_on_goes_on_when_the_job_was_taken_by_another(
    queue: Queue, mock_clock: MockClock
) -> None:
    looks = 0

    async def work() -> None:
        nonlocal looks
        while await queue.wait_for_jobs_on("q", timeout=5):
            looks += 1
            assert looks < 100, "a wakeup goes round among those who wait"
            await queue.claim("q")

    workers = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.sleep(0)
    await queue.enqueue("q", b"")
    await mock_clock.advance(5)
    await asyncio.gather(*workers)
    assert looks <= 4
    assert (await queue.stats("q")).claimed == 1


async def test_wait_for_jobs_on_after_a_reopen(open_queue: OpenQueue) -> None:
    queue = await open_queue("memory://wait-for-jobs-after-a-reopen")
    await queue.enqueue("full", b"")
    await queue.enqueue("empty", b"")
    await queue.ack(await must_claim(queue, "empty"))
    await queue.close()
    queue = await open_queue("memory://wait-for-jobs-after-a-reopen")
    assert await queue.wait_for_jobs_on("full", timeout=0)
    assert not await queue.wait_for_jobs_on("empty", timeout=0)
    await must_claim(queue, "full")
    assert not await queue.wait_for_jobs_on("full", timeout=0)


async def test_wait_for_jobs_on_knows_a_window_that_was_read_to_its_end(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last scan stopped exactly at the last row, so memory alone cannot tell."""
    monkeypatch.setattr("taquba._queue.claims._REFILL_ROWS", 2)
    url = "memory://read-to-its-end"
    queue = await open_queue(url)
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 2)
    await queue.close()
    queue = await open_queue(url)
    assert len(await queue.claim_batch("q", 2)) == 2
    assert not await queue.wait_for_jobs_on("q", timeout=0)


async def test_wait_for_jobs_on_needs_a_queue(queue: Queue) -> None:
    with pytest.raises(InvalidArgument, match="at least one queue name"):
        await queue.wait_for_jobs_on(timeout=1)


async def test_a_closed_queue_ends_wait_for_jobs_on(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    waiter = asyncio.create_task(queue.wait_for_jobs_on("q", timeout=60))
    await asyncio.sleep(0)
    await queue.close()
    with pytest.raises(QueueClosed):
        await waiter


# -- deep backlogs ------------------------------------------------------------------------------


async def test_a_backlog_larger_than_memory_keeps_comes_out_in_order(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taquba._queue.claims._REFILL_ROWS", 300)
    queue = await open_queue()
    ids: list[str] = []
    for _ in range(4):
        batch = await queue.enqueue_batch([EnqueueRequest("q", b"x" * 100)] * 3000)
        ids += [result.id for result in batch]
    claimed: list[str] = []
    while found := await queue.claim_batch("q", 1000):
        claimed += [claim.id for claim in found]
    assert claimed == ids
    assert await claimed_ids(queue) == []


async def test_jobs_of_one_commit_come_in_order_also_while_memory_is_about_to_follow(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taquba._queue.owner.Window", partial(Window, max_entries=2))
    queue = await open_queue(fresh_url())
    await queue.enqueue_batch([EnqueueRequest("q", b"", priority=level) for level in (1, 2, 4)])
    assert len(await queue.claim_batch("q", 2)) == 2
    # Memory knows what is pending up to priority 2 now. A commit is in the store and not in
    # memory yet, and one of its jobs is on either side.
    engine = hold_engine(queue)
    engine.hold("written")
    both = [EnqueueRequest("q", b"", priority=level) for level in (0, 5)]
    enqueue = asyncio.create_task(queue.enqueue_batch(both))
    await engine.reached("written")
    claim = asyncio.create_task(queue.claim_batch("q", 3))
    await asyncio.sleep(0.02)
    engine.release()
    claimed = [job.priority for job in await claim]
    await enqueue
    claimed += [job.priority for job in await queue.claim_batch("q", 3)]
    assert claimed == [0, 4, 5]
