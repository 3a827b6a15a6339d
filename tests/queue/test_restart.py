from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest

from taquba import (
    PRIORITY_HIGH,
    PRIORITY_LOW,
    AttemptOutcome,
    EnqueueRequest,
    JobStatus,
    Queue,
    QueueClosed,
    QueueConfig,
    StoreFenced,
    TaqubaError,
)
from taquba._model import keys
from taquba._store import cursors
from taquba.testing import MockClock
from tests.queue.support import (
    OpenQueue,
    claimed_ids,
    fresh_url,
    kill_job,
    leftovers,
    must_claim,
    rows,
    true_counts,
)


async def make_durable(queue: Queue) -> None:
    """Claims do not wait for durability; the next durable commit carries them."""
    await queue.kv_delete("nothing")


# -- opening ------------------------------------------------------------------------------------


async def test_a_plain_memory_store_is_fresh_every_time(open_queue: OpenQueue) -> None:
    await (await open_queue("memory://")).enqueue("q", b"")
    assert await (await open_queue("memory://")).list_queues() == []


async def test_a_named_memory_store_is_shared_by_its_name(open_queue: OpenQueue) -> None:
    one, other = fresh_url(), fresh_url()
    queue = await open_queue(one)
    await queue.enqueue("q", b"")
    await queue.close()
    assert await (await open_queue(one)).list_queues() == ["q"]
    assert await (await open_queue(other)).list_queues() == []


@pytest.mark.parametrize("form", ["file URL", "plain path", "path object", "escaped URL"])
async def test_a_folder_store(open_queue: OpenQueue, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "new folder" / "store"
    url = {
        "file URL": f"file://{folder}",
        "plain path": str(folder),
        "path object": folder,
        "escaped URL": f"file://{folder}".replace(" ", "%20"),
    }[form]
    queue = await open_queue(url)
    await queue.enqueue("q", b"kept")
    await queue.close()
    assert os.listdir(tmp_path) == ["new folder"]
    assert os.listdir(folder) != []
    queue = await open_queue(f"file://{folder}")
    assert (await must_claim(queue)).payload == b"kept"


async def test_a_relative_path_is_below_the_working_directory(
    open_queue: OpenQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    queue = await open_queue("./data", fsync=False)
    await queue.enqueue("q", b"")
    await queue.close()
    assert os.listdir(tmp_path) == ["data"]


async def test_open_is_awaited_or_entered(mock_clock: MockClock) -> None:
    async with Queue.open("memory://", clock=mock_clock) as queue:
        assert isinstance(queue, Queue)
        await queue.enqueue("q", b"")
    with pytest.raises(QueueClosed):
        await queue.enqueue("q", b"")
    owned = await Queue.open("memory://", clock=mock_clock)
    await owned.enqueue("q", b"")
    await owned.close()
    async with await Queue.open("memory://", clock=mock_clock) as entered:
        await entered.enqueue("q", b"")


async def test_leaving_by_an_error_closes_too(mock_clock: MockClock) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with Queue.open("memory://", clock=mock_clock) as queue:
            raise RuntimeError("mine")
    with pytest.raises(QueueClosed):
        await queue.stats("q")


async def test_close_is_idempotent(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    await asyncio.gather(queue.close(), queue.close())
    await queue.close()


async def test_close_writes_what_was_under_way(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    enqueues = [asyncio.create_task(queue.enqueue("q", b"")) for _ in range(20)]
    await asyncio.sleep(0)
    await queue.close()
    results = await asyncio.gather(*enqueues)
    queue = await open_queue(url)
    assert await claimed_ids(queue) == [result.id for result in results]


async def test_close_leaves_no_task_behind(mock_clock: MockClock) -> None:
    before = asyncio.all_tasks()
    async with Queue.open("memory://", clock=mock_clock, heartbeat_interval=5) as queue:
        await queue.enqueue("q", b"", delay=5)
        await queue.enqueue("q", b"")
        await queue.claim("q")
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


# -- clean close and reopen ---------------------------------------------------------------------


async def test_every_kind_of_job_survives_a_clean_close(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    config = QueueConfig(keep_done_jobs=3600)
    queue = await open_queue(url, default_config=config)
    await queue.enqueue("q", b"1", job_id="done")
    await queue.ack(await must_claim(queue))
    await queue.enqueue("q", b"2", job_id="dead")
    await kill_job(queue)
    await queue.enqueue("q", b"3", job_id="pending", dedup_key="k", headers={"h": "v"}, priority=3)
    await queue.enqueue("q", b"4", job_id="scheduled", delay=60)
    await queue.kv_put("entry", b"5")
    jobs = {status: await queue.get_job(status) for status in ("done", "dead", "pending")}
    stats = await queue.stats("q")
    await queue.close()

    await mock_clock.advance(10)
    queue = await open_queue(url, default_config=config)
    assert await queue.stats("q") == stats
    for status, job in jobs.items():
        assert await queue.get_job(status) == job
    assert await queue.enqueue("q", b"", dedup_key="k") == ("pending", False)
    assert await queue.kv_get("entry") == b"5"
    assert (await must_claim(queue, lease=90)).id == "pending"
    await mock_clock.advance(50)
    assert (await must_claim(queue)).id == "scheduled"


async def test_what_became_due_while_closed_is_claimed_at_once(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"", delay=60)
    await queue.close()
    await mock_clock.advance(3600)
    queue = await open_queue(url)
    waiter = asyncio.create_task(queue.claim("q", wait=60))
    await mock_clock.advance(0)
    assert waiter.done()
    assert await waiter is not None


async def test_where_claims_left_off_is_stored_and_goes_down_with_a_job_below_it(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    ids = [result.id for result in await queue.enqueue_batch([EnqueueRequest("q", b"")] * 10)]
    for claim in await queue.claim_batch("q", 6):
        await queue.ack(claim)
    await queue.close()

    queue = await open_queue(url)
    place = keys.cursor("q")
    before = (await rows(queue))[place]
    assert before == keys.pending("q", 1000, ids[6])[:-1]
    urgent = (await queue.enqueue("q", b"", priority=PRIORITY_HIGH)).id
    assert (await rows(queue))[place] < keys.pending("q", PRIORITY_HIGH, urgent)
    assert await claimed_ids(queue) == [urgent, *ids[6:]]


async def test_after_a_crash_the_first_scan_starts_near_where_claims_left_off(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "_TAKEN", 10)
    url = fresh_url()
    queue = await open_queue(url)
    ids = [result.id for result in await queue.enqueue_batch([EnqueueRequest("q", b"")] * 100)]
    for _ in range(6):
        for claim in await queue.claim_batch("q", 10):
            await queue.ack(claim)
    # Two that are claimed at the crash, and go back.
    await queue.claim_batch("q", 2)
    # Another one, without a close of this one: to the store that is a crash.
    queue = await open_queue(url, take_over=True)
    horizon = queue._owner.queues["q"].window.horizon
    assert horizon is not None
    assert keys.pending("q", 1000, ids[40])[:-1] <= horizon < keys.pending("q", 1000, ids[60])
    assert await claimed_ids(queue) == ids[60:]


@pytest.mark.parametrize("taken", [0, 1, 5, 9, 10])
async def test_claims_go_on_where_they_left_off(open_queue: OpenQueue, taken: int) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    ids = [result.id for result in await queue.enqueue_batch([EnqueueRequest("q", b"")] * 10)]
    for claim in await queue.claim_batch("q", taken) if taken else []:
        await queue.ack(claim)
    await queue.close()
    queue = await open_queue(url)
    assert await claimed_ids(queue) == ids[taken:]


async def test_a_job_below_the_stored_place_is_found_after_the_reopen(
    open_queue: OpenQueue,
) -> None:
    """Urgent jobs, requeued jobs and given-back jobs all land below where claims had got to."""
    url = fresh_url()
    queue = await open_queue(url)
    ids = [result.id for result in await queue.enqueue_batch([EnqueueRequest("q", b"")] * 10)]
    await kill_job(queue)
    for claim in await queue.claim_batch("q", 4):
        await queue.ack(claim)
    await queue.close()

    queue = await open_queue(url)
    assert (await must_claim(queue)).id == ids[5]
    await queue.requeue_dead(ids[0])
    urgent = (await queue.enqueue("q", b"", priority=PRIORITY_HIGH)).id
    assert await claimed_ids(queue) == [urgent, ids[0], *ids[6:]]
    # The claims still open here go back at the next open, all below the place.
    await queue.close()
    queue = await open_queue(url)
    assert await claimed_ids(queue) == [urgent, ids[0], *ids[5:]]


async def test_many_reopens_lose_nothing(open_queue: OpenQueue) -> None:
    url = fresh_url()
    expected: list[str] = []
    for life in range(8):
        queue = await open_queue(url, take_over=True)
        batch = await queue.enqueue_batch(
            [EnqueueRequest("q", b"", priority=PRIORITY_LOW - life), EnqueueRequest("q", b"")]
        )
        expected += [result.id for result in batch]
        if life % 2:
            claim = await must_claim(queue)
            expected.remove(claim.id)
            await queue.ack(claim)
        if life % 3:
            await queue.close()
    queue = await open_queue(url, take_over=True)
    assert sorted(await claimed_ids(queue)) == sorted(expected)


@pytest.mark.parametrize("crash", [False, True])
async def test_all_priorities_are_found_after_a_reopen(open_queue: OpenQueue, crash: bool) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    priorities = [PRIORITY_LOW, 0, PRIORITY_HIGH, 2**32 - 1, 5, 5]
    for priority in priorities:
        await queue.enqueue("q", str(priority).encode(), priority=priority)
    # Claims go on in the middle of the space.
    await queue.ack(await must_claim(queue))
    await queue.ack(await must_claim(queue))
    if not crash:
        await queue.close()
    queue = await open_queue(url, take_over=True)
    found = [claim.priority for claim in await queue.claim_batch("q", 10)]
    assert found == [5, PRIORITY_HIGH, PRIORITY_LOW, 2**32 - 1]


async def test_counters_survive_many_queues(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    for n in range(30):
        await queue.enqueue(f"q{n}", b"")
        if n % 2:
            await queue.ack(await must_claim(queue, f"q{n}"))
    await queue.close()
    queue = await open_queue(url)
    assert len(await queue.list_queues()) == 30
    for n in range(30):
        stats = await queue.stats(f"q{n}")
        assert (stats.pending, stats.done) == ((0, 1) if n % 2 else (1, 0))


# -- crash reopen -------------------------------------------------------------------------------


async def test_claimed_jobs_go_back_at_once(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"", job_id="a")
    claim = await must_claim(first, lease=3600)
    await make_durable(first)
    await mock_clock.advance(1)

    second = await open_queue(url, take_over=True)
    job = await second.get_job("a")
    assert job is not None
    # Not after the lease: its owner is gone. Whether it was the job's fault is not known.
    assert (job.status, job.attempts, job.suspect) == (JobStatus.PENDING, 0, True)
    (entry,) = await second.attempt_history("a")
    assert (entry.attempt, entry.outcome) == (1, AttemptOutcome.INTERRUPTED)
    assert not entry.counted
    assert entry.recorded_at == entry.claimed_at + timedelta(seconds=1)  # type: ignore[operator]
    assert (await must_claim(second)).attempts == 1
    with pytest.raises(StoreFenced):
        await first.ack(claim)
    assert await true_counts(second, "q") == {
        "pending": 0,
        "scheduled": 0,
        "claimed": 1,
        "done": 0,
        "dead": 0,
    }


async def test_a_claim_held_at_a_clean_close_goes_back_too(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    job_id = (await queue.enqueue("q", b"")).id
    await must_claim(queue)
    await queue.close()
    queue = await open_queue(url, take_over=True)
    # Nothing died, so the job is not to blame for anything.
    claim = await must_claim(queue)
    assert (claim.attempts, claim.suspect) == (1, False)
    (entry,) = await queue.attempt_history(job_id)
    assert (entry.outcome, entry.counted) == (AttemptOutcome.INTERRUPTED, False)


async def test_a_claim_that_was_not_durable_yet_never_was(open_queue: OpenQueue) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"", job_id="a")
    await must_claim(first)
    second = await open_queue(url, take_over=True)
    assert await second.attempt_history("a") == []
    assert (await must_claim(second)).attempts == 1


async def test_a_crash_while_a_suspect_runs_alone_in_its_last_attempt_dead_letters(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"", job_id="a", max_attempts=1)
    await must_claim(first)
    await make_durable(first)
    second = await open_queue(url, take_over=True)
    await must_claim(second)
    third = await open_queue(url, take_over=True)
    job = await third.get_job("a")
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.DEAD, 1)
    assert job.last_error is not None
    assert "ended once while it ran alone" in job.last_error
    assert await third.claim("q") is None
    assert (await third.stats("q")).dead == 1
    counted = [attempt.counted for attempt in await third.attempt_history("a")]
    assert counted == [False, True]


async def test_more_claims_than_one_commit_takes_go_back(open_queue: OpenQueue) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue_batch([EnqueueRequest("q", b"")] * 1200)
    assert len(await first.claim_batch("q", 1200)) == 1200
    await make_durable(first)
    second = await open_queue(url, take_over=True)
    assert (await second.stats("q")).pending == 1200
    for _ in range(1200):
        (suspect,) = await second.claim_batch("q", 2000)
        await second.ack(suspect)
    assert (await second.stats("q")).done == 1200


async def test_a_dead_letter_of_the_reopen_expires_in_its_time(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"", max_attempts=1)
    await must_claim(first)
    await make_durable(first)
    second = await open_queue(url, take_over=True)
    await must_claim(second)
    third = await open_queue(url, take_over=True)
    assert (await third.stats("q")).dead == 1
    await mock_clock.advance(timedelta(days=7))
    assert await leftovers(third) == {}


async def test_the_old_owner_is_fenced(open_queue: OpenQueue) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("q", b"", job_id="a")
    second = await open_queue(url, take_over=True)
    with pytest.raises(StoreFenced, match="fenced") as fenced:
        await first.enqueue("q", b"", job_id="late")
    assert fenced.value.permanent
    # From now on it says so at once, to every call.
    for call in (first.claim("q"), first.stats("q"), first.kv_get("k"), first.kv_put("k", b"")):
        with pytest.raises(StoreFenced):
            await call
    assert await second.get_job("late") is None
    assert (await second.stats("q")).pending == 1
    await first.close()
    with pytest.raises(QueueClosed):
        await first.stats("q")


async def test_a_fenced_owner_stops_whoever_waits(open_queue: OpenQueue) -> None:
    url = fresh_url()
    first = await open_queue(url)
    await first.enqueue("other", b"", job_id="a")
    waiting = [
        asyncio.create_task(first.claim("q", wait=3600)),
        asyncio.create_task(first.wait_for_jobs_on("q", timeout=3600)),
        asyncio.create_task(first.wait_for_completion("a", 3600)),
    ]
    await asyncio.sleep(0)
    await open_queue(url, take_over=True)
    with pytest.raises(TaqubaError):
        await first.kv_put("k", b"")
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, StoreFenced)


async def test_ids_ascend_when_the_clock_steps_back(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue()
    ids = [(await queue.enqueue("q", b"")).id]
    mock_clock._now -= 3_600_000
    ids += [(await queue.enqueue("q", b"")).id for _ in range(3)]
    assert ids == sorted(ids)
    assert await claimed_ids(queue) == ids


async def test_the_heartbeat_is_written(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(heartbeat_interval=10)
    silent = await open_queue()
    await mock_clock.advance(0)
    beats = [(await rows(queue))[keys.HEARTBEAT]]
    for _ in range(2):
        await mock_clock.advance(10)
        beats.append((await rows(queue))[keys.HEARTBEAT])
    assert len(set(beats)) == 3
    assert beats == sorted(beats)
    assert keys.HEARTBEAT not in await rows(silent)


async def test_the_flush_interval_is_the_least_time_between_flushes(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(flush_interval=0.05)
    await queue.kv_put("k", b"1")
    loop = asyncio.get_running_loop()
    started = loop.time()
    for n in range(3):
        await queue.kv_put("k", bytes([n]))
    assert loop.time() - started >= 0.1
    # Commits that wait together share a flush.
    started = loop.time()
    await asyncio.gather(*(queue.kv_put(f"k{n}", b"") for n in range(100)))
    assert loop.time() - started < 5
