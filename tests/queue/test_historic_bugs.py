"""Bugs that queues of this kind have had, each by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taquba import (
    PRIORITY_HIGH,
    CancelOutcome,
    Claim,
    ClaimLost,
    DuplicateJobId,
    EnqueueRequest,
    JobNotFound,
    JobStatus,
    Queue,
    QueueConfig,
    SettlementEffects,
)
from taquba.testing import MockClock
from tests.queue.support import (
    NO_RETRY_WAIT,
    OpenQueue,
    claimed_ids,
    fresh_url,
    kill_job,
    leftovers,
    must_claim,
    rows,
    true_counts,
)

TURNS = range(25)
"""More turns of the event loop than a commit to a memory store takes."""

WEEK = 7 * 24 * 3600


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.mark.parametrize("reopened", [False, True])
async def test_insert_behind_the_scan_position_while_a_claim_is_in_flight(
    open_queue: OpenQueue, reopened: bool
) -> None:
    """A scan that has passed a key must not hide a job that is written there meanwhile."""
    for turns in TURNS:
        url = fresh_url()
        queue = await open_queue(url)
        expected = {
            result.id for result in await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
        }
        if reopened:
            # Then the first claim has to scan.
            await queue.close()
            queue = await open_queue(url)
        claiming = asyncio.create_task(queue.claim("q"))
        await turn(turns)
        behind = await queue.enqueue("q", b"", priority=PRIORITY_HIGH)
        expected.add(behind.id)
        claim = await claiming
        assert claim is not None
        assert {claim.id, *await claimed_ids(queue)} == expected
        await queue.close()


async def test_ids_generated_before_commit_under_concurrent_producers(queue: Queue) -> None:
    """Commit order inverts key order; a consumer that follows the highest id would skip jobs."""
    total = 300
    early = [queue.next_job_id() for _ in range(total)]
    seen: list[str] = []

    async def produce(job_id: str, turns: int) -> None:
        await turn(turns)
        await queue.enqueue("q", b"", job_id=job_id)

    all_seen = asyncio.Event()

    async def consume() -> None:
        while True:
            for claim in await queue.claim_batch("q", 3, wait=60):
                seen.append(claim.id)
                await queue.ack(claim)
            if len(seen) == total:
                all_seen.set()

    consumers = [asyncio.create_task(consume()) for _ in range(3)]
    # The later the id, the sooner its commit.
    producers = [produce(job_id, (total - n) // 4) for n, job_id in enumerate(early)]
    await asyncio.gather(*producers)
    async with asyncio.timeout(30):
        await all_seen.wait()
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    assert sorted(seen) == early
    assert await leftovers(queue) == {}


async def test_generated_ids_of_interleaved_batches_come_out_in_order(queue: Queue) -> None:
    """A batch that waits for its dedup keys commits after a later, simpler one."""
    slow = EnqueueRequest("q", b"slow", dedup_key="k")
    results = await asyncio.gather(
        queue.enqueue_batch([slow, EnqueueRequest("q", b"")]), queue.enqueue("q", b"fast")
    )
    ids = [result.id for result in results[0]] + [results[1].id]
    assert await claimed_ids(queue) == sorted(ids)


async def test_job_requeued_at_its_original_key_while_a_batch_claim_runs(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """Nack, lease expiry and requeue put a job back at a key that claims have passed."""
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    for turns in TURNS:
        for n in range(6):
            await queue.enqueue("q", b"", job_id=f"job{n}", max_attempts=2)
        nacked = await must_claim(queue)
        dead = await must_claim(queue)
        await queue.dead_letter(dead, "no")
        expiring = await must_claim(queue, lease=1)
        assert [nacked.id, dead.id, expiring.id] == ["job0", "job1", "job2"]

        batch = asyncio.create_task(queue.claim_batch("q", 10))
        await turn(turns)
        await asyncio.gather(
            queue.nack(nacked, "again"), queue.requeue_dead("job1"), mock_clock.advance(1)
        )
        claims = await batch
        claims += await queue.claim_batch("q", 10)
        assert sorted(claim.id for claim in claims) == [f"job{n}" for n in range(6)]
        await asyncio.gather(*(queue.ack(claim) for claim in claims))
        assert await leftovers(queue) == {}


@pytest.mark.parametrize("crash", [False, True])
async def test_first_claim_after_a_restart_with_several_priorities(
    open_queue: OpenQueue, crash: bool
) -> None:
    """A scan state kept per queue, not per priority, must not hide the more urgent jobs."""
    url = fresh_url()
    queue = await open_queue(url)
    low = await queue.enqueue("q", b"", priority=9)
    high = await queue.enqueue("q", b"", priority=1)
    assert (await must_claim(queue)).id == high.id
    # Scans have moved on to priority 9 when priority 5 comes in between.
    middle = await queue.enqueue("q", b"", priority=5)
    if not crash:
        await queue.close()
    queue = await open_queue(url, take_over=True)
    claim = await must_claim(queue)
    assert claim.id == high.id
    # After the crash it is a suspect, which runs alone.
    await queue.ack(claim)
    assert (await must_claim(queue)).id == middle.id
    assert (await must_claim(queue)).id == low.id


async def test_duplicate_own_id_in_sequence(queue: Queue) -> None:
    await queue.enqueue("q", b"first", job_id="a")
    before = await rows(queue)
    for priority in (None, 1):
        with pytest.raises(DuplicateJobId, match="'a'"):
            await queue.enqueue("q", b"second", job_id="a", priority=priority, dedup_key="k")
    with pytest.raises(DuplicateJobId):
        await queue.enqueue("other", b"second", job_id="a", delay=60)
    assert await rows(queue) == before


async def test_duplicate_own_id_concurrently(queue: Queue) -> None:
    results = await asyncio.gather(
        *(
            queue.enqueue(f"q{n % 3}", bytes([n]), job_id="a", priority=n, kv_writes={"k": b""})
            for n in range(20)
        ),
        return_exceptions=True,
    )
    won = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(won) == 1
    assert sum(isinstance(result, DuplicateJobId) for result in results) == 19
    job = await queue.get_job("a")
    assert job is not None
    assert job.payload == bytes(won)
    assert sum([(await queue.stats(f"q{n}")).pending for n in range(3)]) == 1


async def test_duplicate_own_id_within_a_batch(queue: Queue) -> None:
    before = await rows(queue)
    with pytest.raises(DuplicateJobId, match="'a'"):
        await queue.enqueue_batch(
            [
                EnqueueRequest("q", b"1", job_id="a", dedup_key="k"),
                EnqueueRequest("q", b"2", kv_writes={"k": b"v"}),
                EnqueueRequest("other", b"3", job_id="a"),
            ]
        )
    assert await rows(queue) == before
    # The effects of a settlement are such a batch too.
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    twice = SettlementEffects(enqueues=[EnqueueRequest("q", b"", job_id="a")] * 2)
    with pytest.raises(DuplicateJobId, match="'a'"):
        await queue.ack(claim, twice)
    await queue.ack(claim)
    assert await leftovers(queue) == {}


LATE: dict[str, Callable[[Queue, Claim], Awaitable[object]]] = {
    "ack": lambda queue, claim: queue.ack(
        claim, SettlementEffects(enqueues=[EnqueueRequest("next", b"", dedup_key="k")])
    ),
    "nack": lambda queue, claim: queue.nack(claim, "late"),
    "dead_letter": lambda queue, claim: queue.dead_letter(
        claim, "late", SettlementEffects(kv_writes={"k": b"v"})
    ),
    "renew": lambda queue, claim: queue.renew_lease(claim, 60),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("state", ["pending", "claimed by another", "done", "dead"])
async def test_late_settlement_after_the_reaper_took_the_job(
    queue: Queue,
    mock_clock: MockClock,
    late: Callable[[Queue, Claim], Awaitable[object]],
    state: str,
) -> None:
    await queue.enqueue("q", b"", job_id="a", max_attempts=1 if state == "dead" else 3)
    lost = await must_claim(queue, lease=5)
    await mock_clock.advance(5)
    holder = None
    if state in ("claimed by another", "done"):
        holder = await must_claim(queue)
    if state == "done":
        await queue.ack(await must_claim(queue) if holder is None else holder)
    before = await rows(queue)
    with pytest.raises(ClaimLost, match="'a' is lost"):
        await late(queue, lost)
    assert await rows(queue) == before
    if state == "claimed by another":
        assert holder is not None
        await queue.ack(holder)


@pytest.mark.parametrize("late", ["ack", "nack", "dead_letter"])
async def test_settlement_while_the_reaper_takes_the_job(
    open_queue: OpenQueue, mock_clock: MockClock, late: str
) -> None:
    """In whichever turn the two meet, one of them decides, and it decides alone."""
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    for turns in TURNS:
        job_id = (await queue.enqueue("q", b"")).id
        claim = await must_claim(queue, lease=5)
        advancing = asyncio.create_task(mock_clock.advance(5))
        await turn(turns)
        try:
            await LATE[late](queue, claim)
        except ClaimLost:
            await advancing
            again = await must_claim(queue)
            assert (again.id, again.attempts) == (job_id, 2)
            await queue.ack(again)
        else:
            await advancing
            if late == "nack":
                await queue.ack(await must_claim(queue))
            assert await queue.claim("q") is None
        while (follow_up := await queue.claim("next")) is not None:
            await queue.ack(follow_up)
        counts = await true_counts(queue, "q")
        assert (counts["pending"], counts["claimed"], counts["scheduled"]) == (0, 0, 0)


async def test_requeue_of_a_dead_job_that_retention_removed(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await kill_job(queue)
    await mock_clock.advance(WEEK)
    with pytest.raises(JobNotFound, match="'a'"):
        await queue.requeue_dead("a")
    assert await leftovers(queue) == {}
    assert (await queue.stats("q")).pending == 0


@pytest.mark.parametrize("sweep", ["by itself", "sweep_now"])
async def test_requeue_of_a_dead_job_while_retention_removes_it(
    queue: Queue, mock_clock: MockClock, sweep: str
) -> None:
    outcomes: set[str] = set()
    for turns in range(40):
        await queue.enqueue("q", b"", job_id="a")
        await kill_job(queue)
        await mock_clock.advance(WEEK - 1)
        if sweep == "sweep_now":
            mock_clock._now += 1_000
            sweeping: asyncio.Task[object] = asyncio.create_task(queue.sweep_now())
        else:
            sweeping = asyncio.create_task(mock_clock.advance(1))
        await turn(turns)
        try:
            await queue.requeue_dead("a")
        except JobNotFound:
            outcomes.add("swept")
            await sweeping
            assert await queue.claim("q") is None
        else:
            outcomes.add("requeued")
            await sweeping
            job = await queue.get_job("a")
            assert job is not None
            assert job.status is JobStatus.PENDING
            await queue.ack(await must_claim(queue))
        stats = await queue.stats("q")
        assert (stats.pending, stats.dead) == (0, 0)
        assert await leftovers(queue) == {}
    assert "swept" in outcomes


@pytest.mark.parametrize("how", ["one after the other", "at the same time"])
async def test_cancel_of_a_claimed_job_followed_by_its_nack(
    open_queue: OpenQueue, how: str
) -> None:
    """The request is not overwritten by the record that the nack writes."""
    url = fresh_url()
    queue = await open_queue(url, default_config=QueueConfig(**NO_RETRY_WAIT))
    for turns in TURNS if how == "at the same time" else [0]:
        await queue.enqueue("q", b"", job_id="a", max_attempts=9)
        claim = await must_claim(queue)
        if how == "at the same time":
            cancelling = asyncio.create_task(queue.cancel("a"))
            await turn(turns)
            await queue.nack(claim, "no")
            outcome = await cancelling
        else:
            outcome = await queue.cancel("a")
            await queue.nack(claim, "no")
        if outcome is CancelOutcome.REMOVED:
            # The nack was faster, and the cancel met a job that waits.
            assert await queue.get_job("a") is None
            continue
        assert outcome is CancelOutcome.REQUESTED
        again = await must_claim(queue)
        assert again.attempts == 2
        assert again.cancel_requested
        assert again.cancel_token.cancelled
        await again.cancel_token.wait()
        await queue.ack(again)
    assert await leftovers(queue) == {}
