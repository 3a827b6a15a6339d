from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib.metadata import version

import pytest

from taquba import (
    AttemptOutcome,
    EnqueueRequest,
    InvalidArgument,
    JobPage,
    JobRecord,
    JobStatus,
    Queue,
    QueueConfig,
    QueueStats,
)
from taquba.testing import MockClock
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, kill_job, must_claim, true_counts

# -- who takes part -----------------------------------------------------------------------------


async def test_the_processes_that_take_part_are_listed_with_what_they_run(
    queue: Queue, mock_clock: MockClock
) -> None:
    owner, *others = await queue.members()
    assert (owner.role, owner.pid, owner.host) == ("owner", os.getpid(), socket.gethostname())
    assert [member.role for member in others] in ([], ["producer"])
    assert owner.version == version("taquba")
    assert owner.since <= mock_clock.now()
    assert all((member.places, member.running) == ({}, ()) for member in [owner, *others])
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 2)
    first = await must_claim(queue)
    await mock_clock.advance(1)
    second = await must_claim(queue)
    (busy,) = [member for member in await queue.members() if member.running]
    assert busy.id == (others or [owner])[0].id
    assert [(job.job_id, job.queue) for job in busy.running] == [(first.id, "q"), (second.id, "q")]
    assert [job.since for job in busy.running] == [first.claimed_at, second.claimed_at]
    await queue.ack(first)
    await queue.nack(second, "no")
    assert not any(member.running for member in await queue.members())


async def test_a_job_says_who_ran_it(queue: Queue) -> None:
    job_id = (await queue.enqueue("q", b"", max_attempts=1)).id
    pending = await queue.get_job(job_id)
    assert pending is not None
    assert pending.worker is None
    claim = await must_claim(queue)
    assert claim.worker in [member.id for member in await queue.members()]
    await queue.dead_letter(claim, "no")
    dead = await queue.get_job(job_id)
    assert dead is not None
    assert dead.worker == claim.worker
    assert [attempt.worker for attempt in await queue.attempt_history(job_id)] == [claim.worker]


async def test_of_many_claims_those_that_last_longest_are_listed(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 1100)
    old = await must_claim(queue)
    await mock_clock.advance(1)
    while await queue.claim_batch("q", 1000):
        pass
    assert (await queue.stats("q")).claimed == 1100
    (busy,) = [member for member in await queue.members() if member.running]
    assert len(busy.running) == 1000
    assert busy.running[0].job_id == old.id


# -- stats and queues ---------------------------------------------------------------------------


async def test_an_unknown_queue_counts_nothing(queue: Queue) -> None:
    assert await queue.stats("unknown") == QueueStats(0, 0, 0, 0, 0)
    assert await queue.list_queues() == []


async def test_counters_follow_a_job_through_its_life(queue: Queue, mock_clock: MockClock) -> None:
    async def counted(**expected: int) -> None:
        assert await queue.stats("q") == QueueStats(
            **dict.fromkeys(["pending", "scheduled", "claimed", "done", "dead"], 0) | expected
        )
        rows = await true_counts(queue, "q")
        assert rows == dict.fromkeys(rows, 0) | {
            status: count for status, count in expected.items() if status != "done"
        }

    await queue.enqueue("q", b"", delay=1, max_attempts=2, job_id="a")
    await counted(scheduled=1)
    await mock_clock.advance(1)
    await counted(pending=1)
    claim = await must_claim(queue)
    await counted(claimed=1)
    await queue.nack(claim, "no")
    await counted(scheduled=1)
    await mock_clock.advance(2)
    await queue.nack(await must_claim(queue), "no")
    await counted(dead=1)
    await queue.requeue_dead("a")
    await counted(pending=1)
    await queue.ack(await must_claim(queue))
    await counted(done=1)


async def test_done_counts_every_job_ever_completed(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    for _ in range(3):
        await queue.enqueue("q", b"")
        await queue.ack(await must_claim(queue))
    assert (await queue.stats("q")).done == 3


async def test_counters_are_exact_under_concurrency(queue: Queue) -> None:
    async def live(n: int) -> None:
        await queue.enqueue("q", b"", delay=60 if n % 5 == 0 else None)
        claim = await queue.claim("q")
        if claim is not None and n % 3 == 0:
            await queue.ack(claim)
        elif claim is not None and n % 3 == 1:
            await queue.dead_letter(claim, "no")

    await asyncio.gather(*(live(n) for n in range(100)))
    stats = await queue.stats("q")
    counts = await true_counts(queue, "q")
    assert (stats.pending, stats.scheduled, stats.claimed, stats.dead) == (
        counts["pending"],
        counts["scheduled"],
        counts["claimed"],
        counts["dead"],
    )
    assert stats.pending + stats.scheduled + stats.claimed + stats.dead + stats.done == 100


async def test_queues_are_listed_by_name(queue: Queue) -> None:
    for name in ("b", "a", "ä"):
        await queue.enqueue(name, b"")
    assert await queue.list_queues() == ["a", "b", "ä"]


# -- one job ------------------------------------------------------------------------------------


async def test_a_record_is_found_in_every_state(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"done", job_id="done")
    await queue.ack(await must_claim(queue))
    await queue.enqueue("q", b"dead", job_id="dead")
    await kill_job(queue)
    await queue.enqueue("q", b"claimed", job_id="claimed")
    await must_claim(queue)
    await queue.enqueue("q", b"pending", job_id="pending")
    await queue.enqueue("q", b"scheduled", job_id="scheduled", delay=60)
    for status in JobStatus:
        job = await queue.get_job(status.value)
        assert isinstance(job, JobRecord)
        assert (job.status, job.payload) == (status, status.value.encode())
        assert (await queue.list_jobs("q", status)).jobs == [job]
        assert status.value in repr(job)
    assert await queue.get_job("unknown") is None


async def test_a_record_is_a_value_that_does_not_change(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    job = await queue.get_job("a")
    assert job == await queue.get_job("a")
    assert len({job, await queue.get_job("a")}) == 1
    await must_claim(queue)
    assert job is not None
    assert job.status is JobStatus.PENDING
    assert job != await queue.get_job("a")
    with pytest.raises(AttributeError):
        job.priority = 5  # type: ignore[misc]


async def test_a_job_is_found_while_it_moves(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a", max_attempts=100)

    async def move() -> None:
        for _ in range(30):
            claim = await must_claim(queue)
            await queue.nack(claim, "no")
            await queue.wake_scheduled("a")

    moving = asyncio.create_task(move())
    while not moving.done():
        assert await queue.get_job("a") is not None
    await moving


# -- listings -----------------------------------------------------------------------------------


async def read_pages(
    read: Callable[[str | None], Awaitable[JobPage]],
) -> tuple[list[str], list[int]]:
    ids: list[str] = []
    sizes: list[int] = []
    cursor: str | None = None
    while True:
        page = await read(cursor)
        ids += [job.id for job in page.jobs]
        sizes.append(len(page.jobs))
        cursor = page.next_cursor
        if cursor is None:
            return ids, sizes


async def test_pending_jobs_are_listed_in_claim_order(queue: Queue) -> None:
    results = await queue.enqueue_batch(
        [EnqueueRequest("q", b"", priority=priority) for priority in (5, 1, 5, 0, 1)]
    )
    ids = [result.id for result in results]
    expected = [ids[3], ids[1], ids[4], ids[0], ids[2]]
    found, sizes = await read_pages(
        lambda cursor: queue.list_jobs("q", JobStatus.PENDING, cursor, 2)
    )
    assert found == expected
    assert sizes == [2, 2, 1]
    assert [claim.id for claim in await queue.claim_batch("q", 5)] == expected


async def test_a_page_that_ends_with_the_last_job_is_the_last(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 4)
    _, sizes = await read_pages(lambda cursor: queue.list_jobs("q", "pending", cursor, 2))
    assert sizes == [2, 2]


async def test_scheduled_jobs_are_listed_by_due_time(queue: Queue) -> None:
    requests = [
        EnqueueRequest(name, b"", delay=delay, job_id=f"{name}{delay}")
        for delay in (30, 10, 20, 5, 25)
        for name in ("q", "other")
    ]
    await queue.enqueue_batch(requests)
    found, sizes = await read_pages(
        lambda cursor: queue.list_jobs("q", "scheduled", cursor=cursor, limit=2)
    )
    assert found == ["q5", "q10", "q20", "q25", "q30"]
    assert sizes == [2, 2, 1]


async def test_claimed_jobs_are_listed(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5)
    claims = await queue.claim_batch("q", 5)
    found, _ = await read_pages(lambda cursor: queue.list_jobs("q", "claimed", cursor, 2))
    assert sorted(found) == sorted(claim.id for claim in claims)


async def test_finished_jobs_are_listed_by_the_time_they_ended(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=3600))
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 10)
    claims = await queue.claim_batch("q", 10, lease=1000)
    dead: list[str] = []
    done: list[str] = []
    for number, claim in enumerate(reversed(claims)):
        await mock_clock.advance(1)
        if number % 2:
            await queue.ack(claim)
            done.append(claim.id)
        else:
            await queue.dead_letter(claim, "no")
            dead.append(claim.id)
    found, sizes = await read_pages(lambda cursor: queue.dead_jobs("q", cursor, 2))
    assert (found, sizes) == (dead, [2, 2, 1])
    assert [job.id for job in (await queue.list_jobs("q", "done")).jobs] == done


async def test_a_listing_goes_on_although_its_place_moved(queue: Queue) -> None:
    ids = [(await queue.enqueue("q", b"")).id for _ in range(4)]
    page = await queue.list_jobs("q", "pending", limit=2)
    await queue.claim_batch("q", 2)
    rest = await queue.list_jobs("q", "pending", cursor=page.next_cursor)
    assert [job.id for job in rest.jobs] == ids[2:]


async def test_a_cursor_of_another_listing_is_refused(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    page = await queue.list_jobs("q", "pending", limit=1)
    for name, status in (("other", "pending"), ("q", "dead")):
        with pytest.raises(InvalidArgument, match=f"{page.next_cursor}.*this listing"):
            await queue.list_jobs(name, status, cursor=page.next_cursor)


async def test_empty_listings(queue: Queue) -> None:
    for status in JobStatus:
        assert await queue.list_jobs("unknown", status) == JobPage([], None)


async def test_the_default_page_has_a_hundred_jobs(queue: Queue) -> None:
    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 101)
    page = await queue.list_jobs("q", "pending")
    assert len(page.jobs) == 100
    assert page.next_cursor is not None


# -- history ------------------------------------------------------------------------------------


async def test_every_attempt_leaves_an_entry(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    await queue.enqueue("q", b"", job_id="a")
    start = mock_clock.now()
    assert await queue.attempt_history("a") == []

    await mock_clock.advance(1)
    claim = await must_claim(queue)
    await mock_clock.advance(2)
    await queue.nack(claim, "first")
    await must_claim(queue, lease=5)
    await mock_clock.advance(5)
    await queue.dead_letter(await must_claim(queue), "last")

    history = await queue.attempt_history("a")
    assert [(entry.attempt, entry.outcome, entry.error) for entry in history] == [
        (1, AttemptOutcome.RETRIED, "first"),
        (2, AttemptOutcome.LEASE_EXPIRED, "the lease expired"),
        (3, AttemptOutcome.DEAD_LETTERED, "last"),
    ]
    assert [entry.claimed_at for entry in history] == [
        start + timedelta(seconds=seconds) for seconds in (1, 3, 8)
    ]
    assert [entry.recorded_at for entry in history] == [
        start + timedelta(seconds=seconds) for seconds in (3, 8, 8)
    ]


async def test_a_running_attempt_has_no_entry_yet(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await must_claim(queue)
    assert await queue.attempt_history("a") == []


async def test_histories_of_similar_ids_are_apart(queue: Queue) -> None:
    for job_id in ("a", "aa", "a0"):
        await queue.enqueue("q", b"", job_id=job_id)
        await queue.nack(await must_claim(queue), f"of {job_id}")
    for job_id in ("a", "aa", "a0"):
        (entry,) = await queue.attempt_history(job_id)
        assert entry.error == f"of {job_id}"


async def test_many_attempts_come_in_order(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    await queue.enqueue("q", b"", job_id="a", max_attempts=300)
    for _ in range(260):
        await queue.nack(await must_claim(queue), "no")
    history = await queue.attempt_history("a")
    assert [entry.attempt for entry in history] == list(range(1, 261))
