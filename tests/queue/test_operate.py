from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taquba import (
    AttemptOutcome,
    CancelOutcome,
    DuplicateJobId,
    EnqueueRequest,
    InvalidState,
    JobNotFound,
    JobStatus,
    Queue,
    QueueClosed,
    QueueConfig,
    QueueStats,
    SettlementEffects,
    WaitStatus,
    WakeOutcome,
)
from taquba.testing import MockClock
from tests.queue.support import (
    NO_RETRY_WAIT,
    OpenQueue,
    fresh_url,
    kill_job,
    leftovers,
    must_claim,
    rows,
    true_counts,
)

# -- cancel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [None, 60])
async def test_a_waiting_job_is_removed(queue: Queue, delay: int | None) -> None:
    job_id = (await queue.enqueue("q", b"", delay=delay, dedup_key="k")).id
    assert await queue.cancel(job_id) is CancelOutcome.REMOVED
    assert await queue.get_job(job_id) is None
    assert await queue.claim("q") is None
    assert await queue.stats("q") == QueueStats(0, 0, 0, 0, 0)
    assert await leftovers(queue) == {}
    assert await queue.cancel(job_id) is CancelOutcome.NOT_FOUND


async def test_a_removed_scheduled_job_never_runs(queue: Queue, mock_clock: MockClock) -> None:
    job_id = (await queue.enqueue("q", b"", delay=60)).id
    await queue.cancel(job_id)
    await mock_clock.advance(120)
    assert await queue.claim("q") is None
    assert await true_counts(queue, "q") == dict.fromkeys(
        ["pending", "scheduled", "claimed", "done", "dead"], 0
    )


async def test_a_retry_that_waits_is_removed_with_its_history(queue: Queue) -> None:
    job_id = (await queue.enqueue("q", b"")).id
    await queue.nack(await must_claim(queue), "no")
    assert await queue.cancel(job_id) is CancelOutcome.REMOVED
    assert await leftovers(queue) == {}


async def test_a_claimed_job_is_asked(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    waiting = asyncio.create_task(claim.cancel_token.wait())
    called: list[str] = []
    claim.cancel_token.on_cancel(lambda: called.append("first"))
    claim.cancel_token.on_cancel(lambda: called.append("second"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not called
    assert await queue.cancel("a") is CancelOutcome.REQUESTED
    assert claim.cancel_token.cancelled
    await waiting
    await claim.cancel_token.wait()
    claim.cancel_token.on_cancel(lambda: called.append("late"))
    await asyncio.sleep(0)
    assert called == ["first", "second", "late"]
    job = await queue.get_job("a")
    assert job is not None
    assert job.cancel_requested
    assert job.status is JobStatus.CLAIMED
    # Asking twice is no harm; the claim settles as its holder likes.
    assert await queue.cancel("a") is CancelOutcome.REQUESTED
    await queue.ack(claim)
    assert await queue.cancel("a") is CancelOutcome.NOT_FOUND


async def test_a_request_survives_a_lost_lease(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await must_claim(queue, lease=5)
    await queue.cancel("a")
    await mock_clock.advance(5)
    claim = await must_claim(queue)
    assert claim.cancel_token.cancelled
    assert claim.cancel_requested


async def test_a_request_survives_a_crash(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"", job_id="a")
    await must_claim(queue)
    await queue.cancel("a")
    claim = await must_claim(await open_queue(url, take_over=True))
    assert claim.cancel_token.cancelled


async def test_finished_and_unknown_jobs_are_not_found(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"", job_id="dead")
    await kill_job(queue)
    await queue.enqueue("q", b"", job_id="done")
    await queue.ack(await must_claim(queue))
    before = await rows(queue)
    for job_id in ("dead", "done", "unknown"):
        assert await queue.cancel(job_id) is CancelOutcome.NOT_FOUND
    assert await rows(queue) == before


EFFECTS = SettlementEffects(
    enqueues=[EnqueueRequest("next", b"", dedup_key="k")],
    kv_writes={"written": b"1"},
    kv_deletes=["deleted"],
)


async def test_effects_land_with_a_removal(queue: Queue) -> None:
    await queue.kv_put("deleted", b"0")
    await queue.enqueue("q", b"", job_id="a")
    assert await queue.cancel("a", EFFECTS) is CancelOutcome.REMOVED
    assert await queue.kv_get("written") == b"1"
    assert await queue.kv_get("deleted") is None
    assert (await queue.stats("next")).pending == 1


@pytest.mark.parametrize("delay", [None, 60])
async def test_a_job_is_replaced_by_one_with_its_dedup_key(queue: Queue, delay: int | None) -> None:
    await queue.enqueue("q", b"old", job_id="old", dedup_key="k", delay=delay)
    replacement = EnqueueRequest("q", b"new", job_id="new", dedup_key="k")
    outcome = await queue.cancel("old", SettlementEffects(enqueues=[replacement]))
    assert outcome is CancelOutcome.REMOVED
    assert await queue.enqueue("q", b"", dedup_key="k") == ("new", False)
    assert (await must_claim(queue)).payload == b"new"
    assert await queue.claim("q") is None


async def test_effects_are_dropped_where_nothing_is_removed(queue: Queue) -> None:
    await queue.kv_put("deleted", b"0")
    await queue.enqueue("q", b"", job_id="a")
    await must_claim(queue)
    assert await queue.cancel("a", EFFECTS) is CancelOutcome.REQUESTED
    assert await queue.cancel("unknown", EFFECTS) is CancelOutcome.NOT_FOUND
    assert await queue.kv_get("written") is None
    assert await queue.kv_get("deleted") == b"0"
    assert (await queue.stats("next")).pending == 0
    # Nothing stays locked.
    assert (await queue.enqueue("next", b"", dedup_key="k")).new


async def test_effects_with_a_taken_id_remove_nothing(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    before = await rows(queue)
    effects = SettlementEffects(enqueues=[EnqueueRequest("q", b"", job_id="a")])
    with pytest.raises(DuplicateJobId):
        await queue.cancel("a", effects)
    assert await rows(queue) == before


async def test_concurrent_cancels_remove_once(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    outcomes = await asyncio.gather(*(queue.cancel("a") for _ in range(5)))
    assert sorted(outcomes) == ["not_found"] * 4 + ["removed"]
    assert (await queue.stats("q")).pending == 0


async def test_cancel_and_claim_at_the_same_time(queue: Queue) -> None:
    """In whichever turn the one meets the other, the job is removed or asked, never both."""
    for turns in range(25):
        job_id = (await queue.enqueue("q", b"")).id
        claiming = asyncio.create_task(queue.claim("q"))
        for _ in range(turns):
            await asyncio.sleep(0)
        outcome = await queue.cancel(job_id)
        claim = await claiming
        if claim is None:
            assert outcome is CancelOutcome.REMOVED
        else:
            assert outcome is CancelOutcome.REQUESTED
            assert claim.cancel_token.cancelled
            await queue.ack(claim)
    assert await leftovers(queue) == {}


async def test_cancel_and_ack_at_the_same_time(queue: Queue) -> None:
    for turns in range(25):
        job_id = (await queue.enqueue("q", b"")).id
        claim = await must_claim(queue)
        acking = asyncio.create_task(queue.ack(claim))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await queue.cancel(job_id) in (CancelOutcome.REQUESTED, CancelOutcome.NOT_FOUND)
        await acking
    assert await leftovers(queue) == {}


# -- wake ---------------------------------------------------------------------------------------


async def test_a_scheduled_job_is_woken(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"payload", delay=3600, job_id="a")
    await mock_clock.advance(1)
    assert await queue.wake_scheduled("a", b"news") is WakeOutcome.WOKEN
    claim = await must_claim(queue)
    assert (claim.id, claim.payload, claim.wake_payload) == ("a", b"payload", b"news")
    assert claim.woken_at == mock_clock.now()
    await mock_clock.advance(7200)
    assert (await queue.stats("q")).scheduled == 0


async def test_a_wake_without_a_payload(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", delay=3600, job_id="a")
    assert await queue.wake_scheduled("a") is WakeOutcome.WOKEN
    claim = await must_claim(queue)
    assert claim.wake_payload is None
    assert claim.woken_at == mock_clock.now()


async def test_a_wake_wakes_a_claimer(queue: Queue) -> None:
    await queue.enqueue("q", b"", delay=3600, job_id="a")
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    await queue.wake_scheduled("a")
    assert await waiter is not None


async def test_a_retry_that_waits_can_be_woken(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await queue.nack(await must_claim(queue), "no")
    assert await queue.wake_scheduled("a") is WakeOutcome.WOKEN
    assert (await must_claim(queue)).attempts == 2


async def test_what_is_not_scheduled_is_not_woken(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="dead")
    await kill_job(queue)
    await queue.enqueue("q", b"", job_id="claimed")
    await must_claim(queue)
    await queue.enqueue("q", b"", job_id="pending")
    before = await rows(queue)
    for job_id in ("dead", "claimed", "pending"):
        assert await queue.wake_scheduled(job_id, b"x") is WakeOutcome.NOT_SCHEDULED
    assert await queue.wake_scheduled("unknown") is WakeOutcome.NOT_FOUND
    assert await rows(queue) == before


async def test_concurrent_wakes_wake_once(queue: Queue) -> None:
    await queue.enqueue("q", b"", delay=60, job_id="a")
    outcomes = await asyncio.gather(*(queue.wake_scheduled("a") for _ in range(5)))
    assert sorted(outcomes) == ["not_scheduled"] * 4 + ["woken"]
    assert (await true_counts(queue, "q"))["pending"] == 1


async def test_wake_and_promotion_at_the_same_time(queue: Queue, mock_clock: MockClock) -> None:
    for turns in range(20):
        await queue.enqueue("q", b"", delay=1, job_id="a")
        advancing = asyncio.create_task(mock_clock.advance(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await queue.wake_scheduled("a") in (WakeOutcome.WOKEN, WakeOutcome.NOT_SCHEDULED)
        await advancing
        await queue.ack(await must_claim(queue))
        assert await queue.claim("q") is None
    assert await leftovers(queue) == {}


# -- requeue ------------------------------------------------------------------------------------


async def test_a_dead_job_is_requeued_with_fresh_attempts(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    await queue.enqueue("q", b"payload", max_attempts=2, job_id="a", priority=7, headers={"h": "v"})
    enqueued_at = mock_clock.now()
    await queue.nack(await must_claim(queue), "one")
    await queue.nack(await must_claim(queue), "two")
    await mock_clock.advance(5)
    await queue.requeue_dead("a")
    assert await queue.stats("q") == QueueStats(1, 0, 0, 0, 0)
    claim = await must_claim(queue)
    assert (claim.id, claim.payload, claim.priority) == ("a", b"payload", 7)
    assert (claim.attempts, claim.max_attempts, dict(claim.headers)) == (1, 2, {"h": "v"})
    assert claim.enqueued_at == enqueued_at
    assert [entry.outcome for entry in await queue.attempt_history("a")] == [
        AttemptOutcome.RETRIED,
        AttemptOutcome.DEAD_LETTERED,
        AttemptOutcome.REQUEUED,
    ]
    await queue.ack(claim)
    assert await leftovers(queue) == {}


async def test_a_requeued_job_takes_its_old_place(queue: Queue) -> None:
    first = (await queue.enqueue("q", b"")).id
    await kill_job(queue)
    second = (await queue.enqueue("q", b"")).id
    await queue.requeue_dead(first)
    assert [claim.id for claim in await queue.claim_batch("q", 2)] == [first, second]


async def test_a_requeue_forgets_the_request_to_cancel(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    await queue.cancel("a")
    await queue.dead_letter(claim, "cancelled")
    await queue.requeue_dead("a")
    again = await must_claim(queue)
    assert not again.cancel_token.cancelled


async def test_a_requeue_wakes_a_claimer(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await asyncio.sleep(0)
    await queue.requeue_dead("a")
    assert await waiter is not None


async def test_concurrent_requeues_requeue_once(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    results = await asyncio.gather(
        *(queue.requeue_dead("a") for _ in range(5)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, InvalidState) for result in results) == 4
    assert (await true_counts(queue, "q"))["pending"] == 1
    assert (await queue.stats("q")).dead == 0


# -- purge --------------------------------------------------------------------------------------


async def test_a_purged_job_leaves_nothing(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a", max_attempts=2, dedup_key="k")
    await queue.nack(await must_claim(queue), "one")
    await queue.wake_scheduled("a")
    await queue.nack(await must_claim(queue), "two")
    await queue.purge_dead("a")
    assert await queue.get_job("a") is None
    assert await queue.attempt_history("a") == []
    assert await queue.stats("q") == QueueStats(0, 0, 0, 0, 0)
    assert await leftovers(queue) == {}
    assert (await queue.enqueue("q", b"", job_id="a")).new


# -- requeue and purge --------------------------------------------------------------------------


@pytest.mark.parametrize("move", [Queue.requeue_dead, Queue.purge_dead])
async def test_what_is_not_dead_stays_where_it_is(
    open_queue: OpenQueue, move: Callable[[Queue, str], Awaitable[None]]
) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"", job_id="done")
    await queue.ack(await must_claim(queue))
    await queue.enqueue("q", b"", job_id="claimed")
    await must_claim(queue)
    await queue.enqueue("q", b"", job_id="pending")
    await queue.enqueue("q", b"", job_id="scheduled", delay=60)
    before = await rows(queue)
    for status in ("done", "claimed", "pending", "scheduled"):
        with pytest.raises(InvalidState, match=f"'{status}' is {status}; .*dead"):
            await move(queue, status)
    with pytest.raises(JobNotFound, match="'unknown'"):
        await move(queue, "unknown")
    assert await rows(queue) == before


async def test_a_dead_job_is_either_purged_or_requeued(queue: Queue) -> None:
    for turns in range(20):
        await queue.enqueue("q", b"", job_id="a")
        await kill_job(queue)
        purging = asyncio.create_task(queue.purge_dead("a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await queue.requeue_dead("a")
        except JobNotFound:
            await purging
        else:
            with pytest.raises(InvalidState):
                await purging
            await queue.cancel("a")
        assert await leftovers(queue) == {}
        assert await true_counts(queue, "q") == dict.fromkeys(
            ["pending", "scheduled", "claimed", "done", "dead"], 0
        )


async def test_a_purge_is_durable(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    await queue.purge_dead("a")
    queue = await open_queue(url, take_over=True)
    assert await queue.get_job("a") is None
    assert (await queue.stats("q")).dead == 0


# -- wait for completion ------------------------------------------------------------------------


async def waiting_for(queue: Queue, job_id: str, timeout: float = 60) -> asyncio.Task[object]:
    task = asyncio.create_task(queue.wait_for_completion(job_id, timeout))
    for _ in range(200):
        if job_id in queue._owner.completions:
            break
        await asyncio.sleep(0)
    await rows(queue)
    return task  # type: ignore[return-value]


async def test_waiting_ends_with_the_ack(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    waiters = [asyncio.create_task(queue.wait_for_completion("a", 60)) for _ in range(3)]
    claim = await must_claim(queue)
    await rows(queue)
    assert not any(waiter.done() for waiter in waiters)
    await queue.ack(claim)
    for outcome in await asyncio.gather(*waiters):
        assert outcome.status is WaitStatus.COMPLETED
        assert (outcome.completed, outcome.timed_out, outcome.not_found) == (True, False, False)
        # Nothing is kept of a job that was acknowledged.
        assert outcome.job is None
    assert queue._owner.completions == {}


async def test_waiting_gives_the_kept_record(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"", job_id="a")
    waiter = asyncio.create_task(queue.wait_for_completion("a", 60))
    await queue.ack(await must_claim(queue))
    outcome = await waiter
    assert outcome.job is not None
    assert outcome.job.status is JobStatus.DONE
    assert await queue.wait_for_completion("a", 60) == outcome


async def test_waiting_for_a_job_that_is_gone_reports_it_when_that_is_durable(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(flush_interval=0.3)
    await queue.enqueue("q", b"", job_id="a")
    acking = asyncio.create_task(queue.ack(await must_claim(queue)))
    async with asyncio.timeout(5):
        while await queue.get_job("a") is not None:  # noqa: ASYNC110 - until it is applied
            await asyncio.sleep(0)
    assert not acking.done()
    assert (await queue.wait_for_completion("a", 60)).not_found
    assert acking.done()


async def test_waiting_ends_with_the_dead_letter(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    waiter = asyncio.create_task(queue.wait_for_completion("a", 60))
    await kill_job(queue, reason="hopeless")
    outcome = await waiter
    assert outcome.completed
    assert outcome.job is not None
    assert (outcome.job.status, outcome.job.last_error) == (JobStatus.DEAD, "hopeless")
    assert await queue.wait_for_completion("a", 60) == outcome


async def test_waiting_lasts_through_retries(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", job_id="a")
    waiter = asyncio.create_task(queue.wait_for_completion("a", 600))
    await queue.nack(await must_claim(queue), "no")
    await mock_clock.advance(2)
    await must_claim(queue, lease=5)
    await mock_clock.advance(5)
    assert not waiter.done()
    await queue.ack(await must_claim(queue))
    assert (await waiter).completed


async def test_waiting_times_out(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", job_id="a")
    waiter = asyncio.create_task(queue.wait_for_completion("a", 10))
    await mock_clock.advance(9.999)
    assert not waiter.done()
    await mock_clock.advance(0.001)
    outcome = await waiter
    assert (outcome.status, outcome.job) == (WaitStatus.TIMED_OUT, None)
    assert outcome.timed_out
    assert (await queue.wait_for_completion("a", 0)).timed_out
    assert queue._owner.completions == {}


async def test_waiting_for_a_job_that_does_not_exist(queue: Queue) -> None:
    outcome = await queue.wait_for_completion("unknown", 60)
    assert (outcome.status, outcome.job) == (WaitStatus.NOT_FOUND, None)
    assert outcome.not_found


async def test_waiting_ends_when_the_job_is_cancelled(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a", delay=60)
    waiter = await waiting_for(queue, "a")
    await queue.cancel("a")
    outcome = await waiter
    assert outcome == await queue.wait_for_completion("a", 0)
    assert outcome.not_found  # type: ignore[attr-defined]


async def test_closing_ends_waiting(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    await queue.enqueue("q", b"", job_id="a")
    waiter = await waiting_for(queue, "a")
    await queue.close()
    with pytest.raises(QueueClosed):
        await waiter


async def test_a_cancelled_waiter_leaves_nothing_behind(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    waiter = await waiting_for(queue, "a")
    waiter.cancel()
    await asyncio.wait([waiter])
    assert queue._owner.completions == {}


# -- promote ------------------------------------------------------------------------------------


async def test_promote_scheduled_now_moves_what_is_due(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"", delay=delay) for delay in (1, 2, 60)])
    assert await queue.promote_scheduled_now() == 0
    # Moves time past the jobs before the scheduler's own timer gets its turn.
    mock_clock._now += 2_000
    assert await queue.promote_scheduled_now() == 2
    stats = await queue.stats("q")
    assert (stats.pending, stats.scheduled) == (2, 1)
