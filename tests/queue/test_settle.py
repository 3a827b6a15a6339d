from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from taquba import (
    AttemptOutcome,
    Claim,
    ClaimLost,
    DuplicateJobId,
    EnqueueRequest,
    EnqueueResult,
    JobStatus,
    NackOutcome,
    Queue,
    QueueConfig,
    QueueStats,
    SettlementEffects,
)
from taquba.testing import MockClock
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, leftovers, must_claim, rows, true_counts

Settle = Callable[[Queue, Claim], Awaitable[object]]

SETTLEMENTS: dict[str, Settle] = {
    "ack": lambda queue, claim: queue.ack(claim),
    "nack": lambda queue, claim: queue.nack(claim, "error"),
    "dead_letter": lambda queue, claim: queue.dead_letter(claim, "reason"),
}

EFFECTS = SettlementEffects(
    enqueues=[EnqueueRequest("next", b"follow-up", kv_writes={"with job": b"1"})],
    kv_writes={"written": b"2"},
    kv_deletes=["deleted", b"never there"],
)


async def effects_were_applied(queue: Queue) -> bool:
    """Whether all of EFFECTS took place; fails when only a part did."""
    applied = (
        (await queue.stats("next")).pending == 1,
        await queue.kv_get("with job") == b"1",
        await queue.kv_get("written") == b"2",
        await queue.kv_get("deleted") is None,
    )
    assert all(applied) or not any(applied)
    return all(applied)


async def claim_with_last_attempt(queue: Queue) -> Claim:
    await queue.kv_put("deleted", b"0")
    await queue.enqueue("q", b"", max_attempts=1)
    return await must_claim(queue)


# -- ack ----------------------------------------------------------------------------------------


async def test_an_acknowledged_job_leaves_nothing_behind(queue: Queue) -> None:
    await queue.enqueue("q", b"", dedup_key="k", headers={"h": "v"})
    claim = await must_claim(queue)
    assert await queue.ack(claim) == []
    assert await queue.get_job(claim.id) is None
    assert await queue.attempt_history(claim.id) == []
    assert await queue.stats("q") == QueueStats(0, 0, 0, done=1, dead=0)
    assert await leftovers(queue) == {}


async def test_a_job_that_was_retried_leaves_nothing_behind(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    await queue.enqueue("q", b"", dedup_key="k")
    await queue.nack(await must_claim(queue), "once")
    await queue.nack(await must_claim(queue), "twice")
    await queue.ack(await must_claim(queue))
    assert await leftovers(queue) == {}


async def test_keep_done_jobs_keeps_the_record(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"payload")
    claim = await must_claim(queue)
    await mock_clock.advance(2)
    await queue.ack(claim)
    job = await queue.get_job(claim.id)
    assert job is not None
    assert (job.status, job.payload) == (JobStatus.DONE, b"payload")
    assert job.completed_at == mock_clock.now()
    assert job.failed_at is None
    (attempt,) = await queue.attempt_history(claim.id)
    assert attempt.outcome is AttemptOutcome.COMPLETED
    assert attempt.error is None
    assert (await queue.list_jobs("q", JobStatus.DONE)).jobs == [job]
    assert (await true_counts(queue, "q"))["done"] == 1


async def test_ack_applies_effects_in_its_commit(queue: Queue) -> None:
    claim = await claim_with_last_attempt(queue)
    (result,) = await queue.ack(claim, EFFECTS)
    assert isinstance(result, EnqueueResult)
    assert result.new
    assert await effects_were_applied(queue)
    follow_up = await must_claim(queue, "next")
    assert (follow_up.id, follow_up.payload) == (result.id, b"follow-up")


async def test_effects_enqueue_with_all_options(queue: Queue, mock_clock: MockClock) -> None:
    claim = await claim_with_last_attempt(queue)
    effects = SettlementEffects(
        enqueues=[
            EnqueueRequest("q", b"1", delay=5, priority=1, headers={"h": "v"}, max_attempts=9),
            EnqueueRequest("other", b"2", job_id="own", dedup_key="d"),
        ]
    )
    first, second = await queue.ack(claim, effects)
    job = await queue.get_job(first.id)
    assert job is not None
    assert job.run_at == mock_clock.now() + timedelta(seconds=5)
    assert (job.priority, dict(job.headers), job.max_attempts) == (1, {"h": "v"}, 9)
    assert second == ("own", True)
    assert await queue.enqueue("other", b"", dedup_key="d") == ("own", False)


async def test_a_job_may_follow_itself(queue: Queue) -> None:
    await queue.enqueue("q", b"1", dedup_key="k")
    claim = await must_claim(queue)
    (result,) = await queue.ack(
        claim, SettlementEffects(enqueues=[EnqueueRequest("q", b"2", dedup_key="k")])
    )
    assert result.new
    assert (await must_claim(queue)).payload == b"2"


# -- nack ---------------------------------------------------------------------------------------


async def test_nack_retries_after_the_backoff(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", max_attempts=3)
    claim = await must_claim(queue)
    outcome = await queue.nack(claim, "no luck")
    assert outcome == NackOutcome(True, [])
    assert outcome.retried
    assert not outcome.dead_lettered
    job = await queue.get_job(claim.id)
    assert job is not None
    assert (job.status, job.attempts, job.last_error) == (JobStatus.SCHEDULED, 1, "no luck")
    assert job.run_at is not None
    # One second, and up to a tenth of jitter.
    assert 1 <= (job.run_at - mock_clock.now()).total_seconds() <= 1.1
    await mock_clock.advance(1.1)
    again = await must_claim(queue)
    assert (again.id, again.attempts, again.last_error) == (claim.id, 2, "no luck")


async def test_the_backoff_doubles_up_to_its_bound(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(
        default_config=QueueConfig(retry_backoff_base=1, retry_backoff_max=10, retry_jitter=0)
    )
    await queue.enqueue("q", b"", max_attempts=7)
    waits: list[float] = []
    for _ in range(6):
        claim = await must_claim(queue)
        await queue.nack(claim, "no")
        job = await queue.get_job(claim.id)
        assert job is not None
        assert job.run_at is not None
        waits.append((job.run_at - mock_clock.now()).total_seconds())
        await mock_clock.advance(waits[-1])
    assert waits == [1, 2, 4, 8, 10, 10]


async def test_jitter_spreads_the_retries(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=10, retry_jitter=1))
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 100)
    for claim in await queue.claim_batch("q", 100):
        await queue.nack(claim, "no")
    jobs = (await queue.list_jobs("q", "scheduled")).jobs
    waits = [(job.run_at - mock_clock.now()).total_seconds() for job in jobs if job.run_at]
    assert len(waits) == 100
    assert all(10 <= wait <= 20 for wait in waits)
    assert max(waits) - min(waits) > 5


async def test_a_backoff_base_of_zero_requeues_at_once(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    await queue.nack(claim, "no")
    assert (await queue.stats("q")).pending == 1
    assert (await must_claim(queue)).id == claim.id


async def test_a_retried_job_keeps_its_place(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    ids = [(await queue.enqueue("q", b"")).id for _ in range(3)]
    await queue.nack(await must_claim(queue), "no")
    assert [claim.id for claim in await queue.claim_batch("q", 3)] == ids


async def test_the_last_nack_dead_letters(queue: Queue, mock_clock: MockClock) -> None:
    claim = await claim_with_last_attempt(queue)
    outcome = await queue.nack(claim, "the end")
    assert outcome == NackOutcome(False, [])
    assert outcome.dead_lettered
    job = await queue.get_job(claim.id)
    assert job is not None
    assert (job.status, job.last_error) == (JobStatus.DEAD, "the end")
    assert job.failed_at == mock_clock.now()
    assert job.completed_at is None


async def test_a_retry_discards_its_effects(queue: Queue) -> None:
    await queue.kv_put("deleted", b"0")
    await queue.enqueue("q", b"", max_attempts=2)
    outcome = await queue.nack(await must_claim(queue), "no", EFFECTS)
    assert outcome == NackOutcome(True, [])
    assert not await effects_were_applied(queue)


async def test_the_last_nack_applies_its_effects(queue: Queue) -> None:
    claim = await claim_with_last_attempt(queue)
    outcome = await queue.nack(claim, "no", EFFECTS)
    assert outcome.dead_lettered
    assert [result.new for result in outcome.enqueued] == [True]
    assert await effects_were_applied(queue)


@pytest.mark.parametrize("settle", ["nack", "dead_letter"])
async def test_an_error_message_that_utf8_cannot_hold(queue: Queue, settle: str) -> None:
    """A message may quote a file name in another encoding; the job must not hang on it."""
    await queue.enqueue("q", b"", job_id="a")
    await getattr(queue, settle)(await must_claim(queue), "no file b\udce4r")
    job = await queue.get_job("a")
    assert job is not None
    assert job.last_error == "no file b\\udce4r"


# -- dead letters -------------------------------------------------------------------------------


async def test_dead_letter_ends_a_job_whatever_its_attempts(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"", max_attempts=5)
    claim = await must_claim(queue)
    assert await queue.dead_letter(claim, "hopeless") == []
    (job,) = (await queue.dead_jobs("q")).jobs
    assert (job.id, job.status, job.last_error) == (claim.id, JobStatus.DEAD, "hopeless")
    assert job.failed_at == mock_clock.now()
    assert await queue.stats("q") == QueueStats(0, 0, 0, done=0, dead=1)
    (attempt,) = await queue.attempt_history(claim.id)
    assert (attempt.outcome, attempt.error) == (AttemptOutcome.DEAD_LETTERED, "hopeless")


async def test_dead_letter_applies_its_effects(queue: Queue) -> None:
    claim = await claim_with_last_attempt(queue)
    (result,) = await queue.dead_letter(claim, "hopeless", EFFECTS)
    assert result.new
    assert await effects_were_applied(queue)


# -- effects that cannot be applied as given ----------------------------------------------------


FINAL: dict[str, Callable[[Queue, Claim, SettlementEffects], Awaitable[list[EnqueueResult]]]] = {
    "ack": lambda queue, claim, effects: queue.ack(claim, effects),
    "dead_letter": lambda queue, claim, effects: queue.dead_letter(claim, "no", effects),
}


async def last_nack(queue: Queue, claim: Claim, effects: SettlementEffects) -> list[EnqueueResult]:
    return (await queue.nack(claim, "no", effects)).enqueued


FINAL["last nack"] = last_nack


@pytest.mark.parametrize("settle", FINAL.values(), ids=FINAL)
async def test_a_dedup_hit_downgrades_that_enqueue_only(
    queue: Queue, settle: Callable[..., Awaitable[list[EnqueueResult]]]
) -> None:
    holder = await queue.enqueue("next", b"holder", dedup_key="held")
    claim = await claim_with_last_attempt(queue)
    effects = SettlementEffects(
        enqueues=[
            EnqueueRequest("next", b"1", kv_writes={"one": b"1"}),
            EnqueueRequest("next", b"2", dedup_key="held", kv_writes={"two": b"1"}),
            EnqueueRequest("next", b"3", dedup_key="free", kv_writes={"three": b"1"}),
        ],
        kv_writes={"written": b"2"},
    )
    first, second, third = await settle(queue, claim, effects)
    assert (first.new, second, third.new) == (True, (holder.id, False), True)
    assert await queue.kv_get("one") == b"1"
    assert await queue.kv_get("two") is None
    assert await queue.kv_get("three") == b"1"
    assert await queue.kv_get("written") == b"2"
    assert (await queue.stats("next")).pending == 3
    with pytest.raises(ClaimLost):
        await queue.ack(claim)


@pytest.mark.parametrize("settle", FINAL.values(), ids=FINAL)
async def test_effects_with_a_taken_id_leave_the_claim_held(
    queue: Queue, settle: Callable[..., Awaitable[list[EnqueueResult]]]
) -> None:
    await queue.enqueue("next", b"", job_id="taken")
    claim = await claim_with_last_attempt(queue)
    effects = SettlementEffects(
        enqueues=[
            EnqueueRequest("next", b"", dedup_key="d"),
            EnqueueRequest("next", b"", job_id="taken"),
        ],
        kv_writes={"written": b"2"},
    )
    before = await rows(queue)
    with pytest.raises(DuplicateJobId, match="taken"):
        await settle(queue, claim, effects)
    assert await rows(queue) == before
    job = await queue.get_job(claim.id)
    assert job is not None
    assert job.status is JobStatus.CLAIMED
    await queue.renew_lease(claim, 30)
    assert await settle(queue, claim, SettlementEffects(kv_writes={"written": b"3"})) == []
    assert await queue.kv_get("written") == b"3"


async def test_effects_do_not_reach_the_store_when_the_claim_is_lost(queue: Queue) -> None:
    claim = await claim_with_last_attempt(queue)
    await queue.dead_letter(claim, "first")
    before = await rows(queue)
    for settle in FINAL.values():
        with pytest.raises(ClaimLost):
            await settle(queue, claim, EFFECTS)
    assert await rows(queue) == before
    assert not await effects_were_applied(queue)


# -- one settlement -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", SETTLEMENTS.values(), ids=SETTLEMENTS)
@pytest.mark.parametrize("first", SETTLEMENTS.values(), ids=SETTLEMENTS)
async def test_a_claim_settles_once(queue: Queue, first: Settle, second: Settle) -> None:
    await queue.enqueue("q", b"", job_id="a")
    claim = await must_claim(queue)
    await first(queue, claim)
    before = await rows(queue)
    with pytest.raises(ClaimLost, match="'a' is lost: it was settled") as lost:
        await second(queue, claim)
    assert lost.value.permanent
    assert await rows(queue) == before


@pytest.mark.parametrize("with_effects", [False, True])
async def test_one_of_concurrent_settlements_wins(queue: Queue, with_effects: bool) -> None:
    claim = await claim_with_last_attempt(queue)
    effects = SettlementEffects(
        enqueues=[EnqueueRequest("next", b"", dedup_key="k" if with_effects else None)],
        kv_writes={"n": b"1"},
    )
    results = await asyncio.gather(
        *(settle(queue, claim, effects) for settle in FINAL.values()),
        *(settle(queue, claim, effects) for settle in FINAL.values()),
        return_exceptions=True,
    )
    assert sum(isinstance(result, list) for result in results) == 1
    assert sum(isinstance(result, ClaimLost) for result in results) == 5
    stats = await queue.stats("q")
    assert (stats.done + stats.dead, stats.claimed) == (1, 0)
    assert (await queue.stats("next")).pending == 1


async def test_a_settlement_whose_caller_is_gone_still_lands(queue: Queue) -> None:
    claim = await claim_with_last_attempt(queue)
    settling = asyncio.create_task(queue.ack(claim, EFFECTS))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    await rows(queue)
    assert (await queue.stats("q")).done == 1
    assert await effects_were_applied(queue)
    with pytest.raises(ClaimLost):
        await queue.ack(claim)


async def test_cancelling_a_settlement_in_any_turn_leaves_it_whole(queue: Queue) -> None:
    """Cancelled while its dedup keys are read or while it commits: all of it, or none."""
    effects = SettlementEffects(
        enqueues=[EnqueueRequest("next", b"", dedup_key="k")], kv_writes={"written": b"1"}
    )
    for turns in range(25):
        await queue.kv_delete("written")
        await queue.enqueue("q", b"")
        claim = await must_claim(queue)
        settling = asyncio.create_task(queue.ack(claim, effects))
        for _ in range(turns):
            await asyncio.sleep(0)
        settling.cancel()
        await asyncio.wait([settling])
        await rows(queue)
        job = await queue.get_job(claim.id)
        landed = job is None
        assert (await queue.kv_get("written") == b"1") is landed
        follow_up = await queue.claim("next")
        assert (follow_up is not None) is landed
        if follow_up is None:
            await queue.ack(claim)
        else:
            await queue.ack(follow_up)
    assert await leftovers(queue) == {} or list(await leftovers(queue)) == [b"\x0b\x01written"]
