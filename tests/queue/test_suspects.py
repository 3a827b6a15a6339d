"""Suspects: jobs whose process ended while they ran. They run alone, and do not wait for ever."""

from __future__ import annotations

import asyncio

from taquba import EnqueueRequest, JobRecord, LeaseHandle, Queue, QueueConfig, run_worker
from taquba._memory import gate
from taquba._queue.owner import CAUTIOUS_MS
from taquba.testing import MockClock, drain
from tests.queue.support import OpenQueue, fresh_url, must_claim

ALONE = gate._ALONE_MS / 1000
PATIENCE = gate._PATIENCE_MS / 1000
WAITS = gate._WAITS_MS / 1000


async def crashed(
    open_queue: OpenQueue, suspects: int, others: int = 0, *, queue: str = "q"
) -> tuple[Queue, list[str]]:
    """A queue after a crash, with suspects in front of other jobs; and the ids of all."""
    url = fresh_url()
    config = QueueConfig(retry_jitter=0)
    first = await open_queue(url, default_config=config)
    batch = await first.enqueue_batch([EnqueueRequest(queue, b"")] * (suspects + others))
    assert len(await first.claim_batch(queue, suspects)) == suspects
    await first.kv_delete("nothing")  # makes the claims durable
    return await open_queue(url, default_config=config, take_over=True), [
        result.id for result in batch
    ]


async def test_a_suspect_is_claimed_alone(open_queue: OpenQueue) -> None:
    queue, ids = await crashed(open_queue, 2, 2)
    for job_id in ids[:2]:
        (suspect,) = await queue.claim_batch("q", 10)
        assert (suspect.id, suspect.attempts, suspect.suspect) == (job_id, 1, True)
        assert await queue.claim("q") is None
        assert not await queue.wait_for_jobs_on("q", timeout=0)
        await queue.ack(suspect)
    assert [claim.id for claim in await queue.claim_batch("q", 10)] == ids[2:]


async def test_a_suspect_of_an_earlier_owner_is_found_by_the_first_claim(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"")
    await must_claim(first)
    await first.kv_delete("nothing")  # makes the claim durable
    await (await open_queue(url, take_over=True)).close()
    third = await open_queue(url)
    assert (await must_claim(third)).suspect
    assert await third.claim("q") is None


async def test_nothing_of_any_queue_runs_beside_a_suspect(open_queue: OpenQueue) -> None:
    queue, _ = await crashed(open_queue, 1)
    await queue.enqueue("other", b"")
    suspect = await must_claim(queue)
    waiting = asyncio.create_task(queue.claim("other", wait=60))
    assert await queue.claim("other") is None
    await queue.nack(suspect, "failed")
    assert await waiting is not None


async def test_a_suspect_waits_until_what_runs_has_ended(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 1, 2)
    await queue.enqueue("other", b"")
    running = await must_claim(queue, "other")
    waiting = asyncio.create_task(queue.claim("q", wait=60))
    await mock_clock.advance(PATIENCE / 2)
    # It holds back those that come after it.
    assert not waiting.done()
    await queue.ack(running)
    claim = await waiting
    assert claim is not None
    assert claim.id == ids[0]


async def test_others_go_on_when_what_runs_takes_long_and_are_held_back_longer_each_time(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 1, 3)
    await queue.enqueue("other", b"")
    running = await must_claim(queue, "other", lease=3600)
    assert await queue.claim("q") is None
    await mock_clock.advance(PATIENCE)
    first = await must_claim(queue, lease=3600)
    assert first.id == ids[1]
    await mock_clock.advance(PATIENCE)
    assert await queue.claim("q") is None
    await mock_clock.advance(PATIENCE)
    assert await queue.claim("q") is None, "the patience has doubled"
    await mock_clock.advance(PATIENCE)
    second = await must_claim(queue, lease=3600)
    assert second.id == ids[2]
    for claim in (running, first, second):
        await queue.ack(claim)
    assert (await must_claim(queue)).id == ids[0]


async def test_a_busy_stream_of_jobs_does_not_starve_a_suspect(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """Two loops always have something to run; their handlers take three seconds each."""
    queue, ids = await crashed(open_queue, 1, 0)
    started: list[str] = []
    together = 0

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal together
        del lease
        together += 1
        started.append(job.id)
        if job.id == ids[0]:
            assert together == 1
        else:
            await queue.enqueue("busy", b"")
            done = asyncio.Event()
            mock_clock.call_later(3000, done.set)
            await done.wait()
        together -= 1

    await queue.enqueue_batch([EnqueueRequest("busy", b"")] * 4)
    stop = asyncio.Event()
    busy = asyncio.create_task(run_worker(queue, "busy", handle, concurrency=2, shutdown=stop))
    await mock_clock.advance(1)
    await asyncio.sleep(0)
    alone = asyncio.create_task(run_worker(queue, "q", handle, shutdown=stop))
    for _ in range(30):
        await mock_clock.advance(1)
    assert ids[0] in started
    place = started.index(ids[0])
    assert len(started) > place + 4, "the others go on afterwards"
    stop.set()
    await mock_clock.advance(10)
    await asyncio.gather(busy, alone)


async def test_the_suspects_of_a_queue_go_before_what_the_loops_of_others_would_start(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 3)
    long = (await queue.enqueue("long", b"")).id
    started: list[str] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        del lease
        started.append(job.id)

    stop = asyncio.Event()
    loops = [
        asyncio.create_task(run_worker(queue, name, handle, concurrency=9, shutdown=stop))
        for name in ("long", "q")
    ]
    await mock_clock.advance(PATIENCE)
    stop.set()
    await asyncio.gather(*loops)
    assert started == [*ids, long]


async def test_a_suspect_that_runs_for_long_lets_others_in_and_is_not_to_blame_alone(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 1, 1)
    await must_claim(queue, lease=3600)
    await mock_clock.advance(ALONE - 1)
    assert await queue.claim("q") is None
    await mock_clock.advance(1)
    assert (await must_claim(queue)).id == ids[1]
    # Another owner: the end of this process may be anybody's fault.
    again = await open_queue(queue._owner.location.url, take_over=True)
    job = await again.get_job(ids[0])
    assert job is not None
    assert (job.attempts, job.suspect) == (0, True)
    # The next time it is watched for twice as long.
    await again.cancel(ids[1])
    await again.enqueue("q", b"")
    await must_claim(again, lease=3600)
    await mock_clock.advance(2 * ALONE - 1)
    assert await again.claim("q") is None
    await mock_clock.advance(1)
    assert await again.claim("q") is not None


async def test_a_slow_killer_is_given_up(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    """It ends its process only after four times as long as suspects run alone at first."""
    queue, ids = await crashed(open_queue, 1)
    lives = 0
    while await queue.claim("q", lease=3600) is not None:
        lives += 1
        await mock_clock.advance(4 * ALONE - 1)
        queue = await open_queue(queue._owner.location.url, take_over=True)
        await mock_clock.advance(60)
    job = await queue.get_job(ids[0])
    assert job is not None
    assert job.status == "dead"
    assert lives == 2 + 3, "two with others, three alone"


async def test_a_suspect_waits_longer_after_each_death_that_counts(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 1)
    for wait in (1, 2):
        await must_claim(queue)
        queue = await open_queue(
            queue._owner.location.url, default_config=QueueConfig(retry_jitter=0), take_over=True
        )
        assert await queue.claim("q") is None
        await mock_clock.advance(wait - 0.001)
        assert await queue.claim("q") is None
        await mock_clock.advance(0.001)
    await must_claim(queue)
    queue = await open_queue(queue._owner.location.url, take_over=True)
    (dead,) = (await queue.dead_jobs("q")).jobs
    assert dead.id == ids[0]


async def test_a_suspect_that_is_cancelled_is_gone(open_queue: OpenQueue) -> None:
    queue, ids = await crashed(open_queue, 2, 1)
    await queue.cancel(ids[0])
    suspect = await must_claim(queue)
    assert suspect.id == ids[1]
    assert (await queue.cancel(suspect.id)).value == "requested"
    await queue.ack(suspect)
    assert [claim.id for claim in await queue.claim_batch("q", 9)] == [ids[2]]


async def test_a_suspect_whose_lease_runs_out_lets_others_in(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue, ids = await crashed(open_queue, 1, 1)
    await must_claim(queue, lease=10)
    await mock_clock.advance(10)
    claims = await queue.claim_batch("q", 9)
    assert [(claim.id, claim.attempts, claim.suspect) for claim in claims] == [
        (ids[0], 2, False),
        (ids[1], 1, False),
    ]


async def test_drain_runs_suspects_alone(open_queue: OpenQueue) -> None:
    queue, ids = await crashed(open_queue, 3, 3)
    ran: list[tuple[str, int]] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        del lease
        ran.append((job.id, (await queue.stats("q")).claimed))

    assert await drain(queue, "q", handle) == 6
    assert ran == [(job_id, 1) for job_id in ids]


async def test_drain_beside_a_held_job_runs_all_but_the_suspects(open_queue: OpenQueue) -> None:
    queue, ids = await crashed(open_queue, 1, 2)
    await queue.enqueue("other", b"")
    await must_claim(queue, "other")
    ran: list[str] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        del lease
        ran.append(job.id)

    assert await drain(queue, "q", handle) == 2
    assert ran == ids[1:]


async def test_the_first_claims_after_a_death_are_durable_and_later_ones_wait_for_nothing(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """A claim that is not durable leaves no trace of a process that ends at once."""
    url = fresh_url()
    first = await open_queue(url)
    ids = [result.id for result in await first.enqueue_batch([EnqueueRequest("q", b"")] * 3)]
    second = await open_queue(url, take_over=True)
    await must_claim(second)
    third = await open_queue(url, take_over=True)
    suspect = await must_claim(third)
    assert (suspect.id, suspect.suspect) == (ids[0], True)
    # While it runs, the owner learns nothing about the jobs behind it.
    await mock_clock.advance(2 * CAUTIOUS_MS / 1000)
    await third.ack(suspect)
    await must_claim(third)
    fourth = await open_queue(url, take_over=True)
    suspect = await must_claim(fourth)
    assert (suspect.id, suspect.suspect) == (ids[1], True)
    await fourth.nack(suspect, "failed")
    await mock_clock.advance(2)
    await fourth.ack(await must_claim(fourth))
    await mock_clock.advance(CAUTIOUS_MS / 1000)
    await must_claim(fourth)
    fifth = await open_queue(url, take_over=True)
    claim = await must_claim(fifth)
    assert (claim.id, claim.suspect) == (ids[2], False)


async def test_a_queue_without_suspects_is_said_to_be_ready_while_another_holds_back(
    open_queue: OpenQueue,
) -> None:
    """`wait_for_jobs_on` and `claim` agree."""
    queue, _ = await crashed(open_queue, 1, 1)
    await queue.enqueue_batch([EnqueueRequest("other", b"")] * 2)
    await must_claim(queue, "other")
    assert await queue.claim("q") is None, "its suspect holds back what comes after it"
    assert not await queue.wait_for_jobs_on("q", timeout=0)
    assert await queue.wait_for_jobs_on("other", timeout=0)
    assert await queue.claim("other") is not None


async def test_a_suspect_that_others_wait_for_runs_beside_them(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """A job that awaits another one, both of which ran in the process that has ended."""
    url = fresh_url()
    first = await open_queue(url)
    awaited = (await first.enqueue("b", b"")).id
    await first.enqueue("a", awaited.encode())
    await must_claim(first, "a")
    await must_claim(first, "b")
    await first.kv_delete("nothing")  # makes the claims durable
    queue = await open_queue(url, take_over=True)

    async def wait_for_it(job: JobRecord, lease: LeaseHandle) -> None:
        await queue.wait_for_completion(job.payload.decode(), 10**6)

    ran: list[bool] = []

    async def note(job: JobRecord, lease: LeaseHandle) -> None:
        ran.append(job.suspect)

    shutdown = asyncio.Event()
    # The one that waits comes first, and runs alone.
    one = asyncio.create_task(run_worker(queue, "a", wait_for_it, shutdown=shutdown))
    await mock_clock.advance(0)
    other = asyncio.create_task(run_worker(queue, "b", note, shutdown=shutdown))
    await mock_clock.advance(ALONE)
    assert ran == []
    await mock_clock.advance(WAITS)
    assert ran == [True]
    assert (await queue.stats("a")).done == 1
    shutdown.set()
    await asyncio.gather(one, other)


async def test_a_suspect_that_ran_beside_others_spends_nothing_when_its_process_ends(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"")
    suspect = await must_claim(first)
    await first.kv_delete("nothing")  # makes the claim durable
    queue = await open_queue(url, take_over=True)
    await queue.enqueue("other", b"")
    await must_claim(queue, "other", lease=1000)
    assert await queue.claim("q") is None
    claiming = asyncio.create_task(queue.claim("q", wait=1000))
    await mock_clock.advance(WAITS)
    beside = await claiming
    assert beside is not None
    assert (beside.id, beside.attempts) == (suspect.id, 1)
    await queue.kv_delete("nothing")
    third = await open_queue(url, take_over=True)
    job = await third.get_job(suspect.id)
    assert job is not None
    assert (job.attempts, job.suspect) == (0, True)
