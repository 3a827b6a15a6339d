from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from taquba import (
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NORMAL,
    DuplicateJobId,
    EnqueueRequest,
    EnqueueResult,
    InvalidArgument,
    InvalidJobId,
    JobStatus,
    Queue,
    QueueConfig,
    SettlementEffects,
)
from taquba.testing import MockClock
from tests.crash.held_engine import hold_engine
from tests.queue.support import (
    NO_RETRY_WAIT,
    OpenQueue,
    claimed_ids,
    leftovers,
    must_claim,
    rows,
    true_counts,
)


async def test_an_enqueued_job_has_what_it_was_given(queue: Queue, mock_clock: MockClock) -> None:
    result = await queue.enqueue(
        "q",
        b"payload",
        priority=7,
        max_attempts=5,
        dedup_key="key",
        headers={"trace": "1"},
    )
    assert isinstance(result, EnqueueResult)
    assert result.new
    job = await queue.get_job(result.id)
    assert job is not None
    assert (job.id, job.queue, job.payload) == (result.id, "q", b"payload")
    assert (job.priority, job.max_attempts, job.attempts) == (7, 5, 0)
    assert (job.dedup_key, dict(job.headers)) == ("key", {"trace": "1"})
    assert job.enqueued_at == mock_clock.now()
    assert job.enqueued_at.tzinfo is UTC
    assert job.status is JobStatus.PENDING
    assert job.run_at is None
    assert job.claimed_at is None
    assert job.last_error is None
    assert not job.cancel_requested


async def test_defaults_come_from_the_queues_config(open_queue: OpenQueue) -> None:
    queue = await open_queue(
        default_config=QueueConfig(max_attempts=9),
        queue_configs={"vip": QueueConfig(default_priority=PRIORITY_HIGH)},
    )
    plain = await queue.get_job((await queue.enqueue("q", b"")).id)
    vip = await queue.get_job((await queue.enqueue("vip", b"")).id)
    assert plain is not None
    assert vip is not None
    assert (plain.max_attempts, plain.priority) == (9, PRIORITY_NORMAL)
    assert (vip.max_attempts, vip.priority) == (3, PRIORITY_HIGH)


async def test_an_empty_payload_is_a_payload(queue: Queue) -> None:
    await queue.enqueue("q", b"")
    assert (await must_claim(queue)).payload == b""


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_other_bytes_like_payloads_are_copied(
    queue: Queue, kind: type[bytearray | memoryview]
) -> None:
    payload = kind(b"abc")
    await queue.enqueue("q", payload)  # type: ignore[arg-type]
    if isinstance(payload, bytearray):
        payload[0] = 0
    claimed = (await must_claim(queue)).payload
    assert claimed == b"abc"
    assert type(claimed) is bytes


async def test_headers_are_taken_as_they_were_at_the_call(queue: Queue) -> None:
    headers = {"a": "1"}
    request = EnqueueRequest("q", b"", headers=headers)
    headers["a"] = "2"
    await queue.enqueue_batch([request])
    claim = await must_claim(queue)
    assert dict(claim.headers) == {"a": "1"}
    with pytest.raises(TypeError):
        claim.headers["a"] = "3"  # type: ignore[index]


async def test_jobs_of_one_priority_come_first_in_first_out(queue: Queue) -> None:
    ids = [(await queue.enqueue("q", b"")).id for _ in range(20)]
    assert await claimed_ids(queue) == ids


async def test_fifo_holds_across_milliseconds_and_batches(
    queue: Queue, mock_clock: MockClock
) -> None:
    ids: list[str] = []
    for _ in range(5):
        ids.append((await queue.enqueue("q", b"")).id)
        batch = await queue.enqueue_batch([EnqueueRequest("q", b"")] * 3)
        ids += [result.id for result in batch]
        await mock_clock.advance(0.001)
    assert ids == sorted(ids)
    assert await claimed_ids(queue) == ids


async def test_lower_priority_numbers_come_first(queue: Queue) -> None:
    priorities = [PRIORITY_LOW, 0, PRIORITY_HIGH, 2**32 - 1, PRIORITY_NORMAL]
    ids = {
        priority: (await queue.enqueue("q", b"", priority=priority)).id for priority in priorities
    }
    assert await claimed_ids(queue) == [ids[priority] for priority in sorted(priorities)]
    assert PRIORITY_HIGH < PRIORITY_NORMAL < PRIORITY_LOW


async def test_queues_do_not_share_jobs(queue: Queue) -> None:
    await queue.enqueue("a", b"for a")
    assert await queue.claim("b") is None
    assert await queue.claim("aa") is None
    assert (await must_claim(queue, "a")).payload == b"for a"


async def test_kv_writes_land_with_the_job(queue: Queue) -> None:
    await queue.enqueue("q", b"", kv_writes={"text": b"1", b"raw": b"2"})
    assert await queue.kv_get("text") == b"1"
    assert await queue.kv_get(b"raw") == b"2"


# -- run_at and delay ---------------------------------------------------------------------------


async def test_a_future_run_at_waits_in_scheduled(queue: Queue, mock_clock: MockClock) -> None:
    run_at = mock_clock.now() + timedelta(seconds=10)
    job_id = (await queue.enqueue("q", b"", run_at=run_at)).id
    job = await queue.get_job(job_id)
    assert job is not None
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == run_at
    assert await queue.claim("q") is None
    await mock_clock.advance(9.999)
    assert await queue.claim("q") is None
    await mock_clock.advance(0.001)
    assert (await must_claim(queue)).id == job_id


async def test_a_run_at_of_another_zone_is_the_same_point_in_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    run_at = (mock_clock.now() + timedelta(seconds=10)).astimezone(timezone(timedelta(hours=-9)))
    job = await queue.get_job((await queue.enqueue("q", b"", run_at=run_at)).id)
    assert job is not None
    assert job.run_at == run_at
    assert job.run_at.tzinfo is UTC


@pytest.mark.parametrize("back", [timedelta(0), timedelta(milliseconds=1), timedelta(days=9)])
async def test_a_past_run_at_goes_straight_to_pending(
    queue: Queue, mock_clock: MockClock, back: timedelta
) -> None:
    job_id = (await queue.enqueue("q", b"", run_at=mock_clock.now() - back)).id
    assert (await queue.stats("q")).pending == 1
    assert (await must_claim(queue)).id == job_id


@pytest.mark.parametrize("delay", [1.5, timedelta(seconds=1.5)])
async def test_a_delay_counts_from_now(
    queue: Queue, mock_clock: MockClock, delay: float | timedelta
) -> None:
    job = await queue.get_job((await queue.enqueue("q", b"", delay=delay)).id)
    assert job is not None
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == mock_clock.now() + timedelta(seconds=1.5)


async def test_a_delay_of_zero_goes_straight_to_pending(queue: Queue) -> None:
    await queue.enqueue("q", b"", delay=0)
    assert (await queue.stats("q")).pending == 1


async def test_the_delay_of_a_request_counts_from_the_enqueue(
    queue: Queue, mock_clock: MockClock
) -> None:
    request = EnqueueRequest("q", b"", delay=10)
    await mock_clock.advance(60)
    (result,) = await queue.enqueue_batch([request])
    job = await queue.get_job(result.id)
    assert job is not None
    assert job.run_at == mock_clock.now() + timedelta(seconds=10)


async def test_scheduled_jobs_become_pending_in_order_of_time_and_are_claimed_by_priority(
    queue: Queue, mock_clock: MockClock
) -> None:
    late = (await queue.enqueue("q", b"", delay=2)).id
    early = (await queue.enqueue("q", b"", delay=1)).id
    urgent = (await queue.enqueue("q", b"", delay=2, priority=PRIORITY_HIGH)).id
    await mock_clock.advance(1)
    assert await claimed_ids(queue) == [early]
    await mock_clock.advance(1)
    assert await claimed_ids(queue) == [urgent, late]


async def test_the_last_moment_that_datetime_knows_is_a_run_at(queue: Queue) -> None:
    never = datetime.max.replace(tzinfo=UTC)
    job_id = (await queue.enqueue("q", b"", run_at=never)).id
    job = await queue.get_job(job_id)
    assert job is not None
    assert job.run_at is not None
    assert never - job.run_at < timedelta(milliseconds=1)
    (listed,) = (await queue.list_jobs("q", "scheduled")).jobs
    assert listed == job


# -- batches ------------------------------------------------------------------------------------


async def test_a_batch_mixes_queues_and_options(queue: Queue, mock_clock: MockClock) -> None:
    results = await queue.enqueue_batch(
        [
            EnqueueRequest("a", b"1"),
            EnqueueRequest("b", b"2", delay=5),
            EnqueueRequest("a", b"3", priority=PRIORITY_HIGH, headers={"h": "v"}),
            EnqueueRequest("c", b"4", job_id="own", kv_writes={"k": b"v"}),
        ]
    )
    assert [result.new for result in results] == [True] * 4
    jobs = [await queue.get_job(result.id) for result in results]
    assert [job.payload for job in jobs if job] == [b"1", b"2", b"3", b"4"]
    assert results[3].id == "own"
    assert await queue.kv_get("k") == b"v"
    assert (await queue.stats("a")).pending == 2
    assert (await queue.stats("b")).scheduled == 1
    assert [job.id for job in (await queue.list_jobs("a", "pending")).jobs] == [
        results[2].id,
        results[0].id,
    ]


async def test_a_batch_takes_any_iterable(queue: Queue) -> None:
    results = await queue.enqueue_batch(EnqueueRequest("q", bytes([n])) for n in range(3))
    assert len(results) == 3


async def test_an_empty_batch_writes_nothing(queue: Queue) -> None:
    before = await rows(queue)
    assert await queue.enqueue_batch([]) == []
    assert await rows(queue) == before


async def test_a_batch_is_one_commit(queue: Queue) -> None:
    """A request that cannot be fulfilled takes all others of its batch with it."""
    await queue.enqueue("q", b"", job_id="taken")
    before = await rows(queue)
    with pytest.raises(DuplicateJobId):
        await queue.enqueue_batch(
            [
                EnqueueRequest("q", b"", kv_writes={"k": b"v"}),
                EnqueueRequest("other", b"", dedup_key="d"),
                EnqueueRequest("q", b"", job_id="taken"),
            ]
        )
    assert await rows(queue) == before
    assert await queue.list_queues() == ["q"]
    # Neither the dedup key nor the id stays locked.
    assert (await queue.enqueue("other", b"", dedup_key="d")).new


async def test_concurrent_enqueues_all_land(queue: Queue) -> None:
    results = await asyncio.gather(*(queue.enqueue("q", b"") for _ in range(200)))
    assert len({result.id for result in results}) == 200
    assert (await queue.stats("q")).pending == 200
    assert (await true_counts(queue, "q"))["pending"] == 200
    assert await claimed_ids(queue) == sorted(result.id for result in results)


# -- dedup keys ---------------------------------------------------------------------------------


async def test_a_held_dedup_key_returns_the_holder_and_drops_the_kv_writes(queue: Queue) -> None:
    first = await queue.enqueue("q", b"1", dedup_key="k", kv_writes={"a": b"first"})
    before = await rows(queue)
    second = await queue.enqueue("q", b"2", dedup_key="k", kv_writes={"a": b"2nd", "b": b"2nd"})
    assert second == (first.id, False)
    assert await rows(queue) == before
    assert await queue.kv_get("a") == b"first"
    assert await queue.kv_get("b") is None


async def test_a_scheduled_job_holds_its_dedup_key(queue: Queue, mock_clock: MockClock) -> None:
    first = await queue.enqueue("q", b"", dedup_key="k", delay=10)
    assert await queue.enqueue("q", b"", dedup_key="k") == (first.id, False)
    await mock_clock.advance(10)
    assert await queue.enqueue("q", b"", dedup_key="k") == (first.id, False)


async def test_dedup_keys_are_per_queue(queue: Queue) -> None:
    first = await queue.enqueue("a", b"", dedup_key="k")
    second = await queue.enqueue("b", b"", dedup_key="k")
    assert second.new
    assert second.id != first.id


async def test_a_claim_frees_the_dedup_key(queue: Queue) -> None:
    first = await queue.enqueue("q", b"", dedup_key="k")
    claim = await must_claim(queue)
    second = await queue.enqueue("q", b"", dedup_key="k")
    assert second.new
    assert second.id != first.id
    await queue.ack(claim)
    assert await queue.enqueue("q", b"", dedup_key="k") == (second.id, False)


async def test_a_retried_job_does_not_take_its_dedup_key_back(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    first = await queue.enqueue("q", b"", dedup_key="k")
    await queue.nack(await must_claim(queue), "again")
    second = await queue.enqueue("q", b"", dedup_key="k")
    assert second.new
    # The first claim of the one must not free the key of the other.
    assert (await must_claim(queue)).id == first.id
    assert await queue.enqueue("q", b"", dedup_key="k") == (second.id, False)


async def test_a_cancelled_job_frees_its_dedup_key(queue: Queue) -> None:
    for delay in (None, 10):
        first = await queue.enqueue("q", b"", dedup_key="k", delay=delay)
        await queue.cancel(first.id)
        second = await queue.enqueue("q", b"", dedup_key="k")
        assert second.new
        await queue.cancel(second.id)
    assert await leftovers(queue) == {}


async def test_one_of_many_concurrent_enqueues_with_one_dedup_key_is_new(queue: Queue) -> None:
    results = await asyncio.gather(*(queue.enqueue("q", b"", dedup_key="k") for _ in range(50)))
    assert sum(result.new for result in results) == 1
    assert len({result.id for result in results}) == 1
    assert (await queue.stats("q")).pending == 1


async def test_a_dedup_key_twice_in_a_batch(queue: Queue) -> None:
    first, other, second = await queue.enqueue_batch(
        [
            EnqueueRequest("q", b"1", dedup_key="k", kv_writes={"a": b"1"}),
            EnqueueRequest("q", b"2", dedup_key="l"),
            EnqueueRequest("q", b"3", dedup_key="k", kv_writes={"a": b"3"}),
        ]
    )
    assert first.new
    assert other.new
    assert second == (first.id, False)
    assert await queue.kv_get("a") == b"1"


# -- own ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", ["a", "A-Z_09", "x" * 128])
async def test_an_own_id_is_used(queue: Queue, job_id: str) -> None:
    assert await queue.enqueue("q", b"", job_id=job_id) == (job_id, True)
    assert (await must_claim(queue)).id == job_id


@pytest.mark.parametrize("job_id", ["", "x" * 129, "a b", "a/b", "ä", "a\n", "a.b"])
async def test_an_invalid_own_id_is_refused_by_name(queue: Queue, job_id: str) -> None:
    before = await rows(queue)
    with pytest.raises(InvalidJobId) as refused:
        await queue.enqueue("q", b"", job_id=job_id)
    assert repr(job_id) in str(refused.value)
    assert await rows(queue) == before


async def test_an_own_id_is_taken_in_every_state(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(keep_done_jobs=60))
    await queue.enqueue("q", b"", job_id="done")
    await queue.ack(await must_claim(queue))
    await queue.enqueue("q", b"", job_id="dead")
    await queue.dead_letter(await must_claim(queue), "broken")
    await queue.enqueue("q", b"", job_id="claimed")
    claim = await must_claim(queue)
    await queue.enqueue("q", b"", job_id="scheduled", delay=9)
    await queue.enqueue("q", b"", job_id="pending")
    before = await rows(queue)
    for job_id in ("done", "dead", "claimed", "scheduled", "pending"):
        job = await queue.get_job(job_id)
        assert job is not None
        assert job.status == job_id
        with pytest.raises(DuplicateJobId, match=job_id):
            await queue.enqueue("other", b"", job_id=job_id, kv_writes={"k": b"v"})
    assert await rows(queue) == before
    await queue.ack(claim)


async def test_the_id_of_a_job_that_is_gone_is_free(queue: Queue) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await queue.ack(await must_claim(queue))
    assert (await queue.enqueue("q", b"", job_id="a")).new


async def test_next_job_id_hands_out_ids_in_order(queue: Queue, mock_clock: MockClock) -> None:
    ids: list[str] = []
    for _ in range(3):
        ids.append(queue.next_job_id())
        ids.append((await queue.enqueue("q", b"")).id)
        await mock_clock.advance(0.001)
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


async def test_a_job_id_handed_out_early_keeps_its_place(queue: Queue) -> None:
    early = queue.next_job_id()
    late = (await queue.enqueue("q", b"")).id
    assert await queue.enqueue("q", b"", job_id=early) == (early, True)
    assert await claimed_ids(queue) == [early, late]


async def test_a_job_can_enqueue_its_own_name_with_kv_and_dedup_at_once(queue: Queue) -> None:
    """All the options that need a lock, in concurrent batches that name them in another order."""
    requests = [
        EnqueueRequest("q", b"", job_id=f"id{n}", dedup_key=f"key{n}", kv_writes={f"kv{n}": b"1"})
        for n in range(4)
    ]
    results = await asyncio.gather(
        *(queue.enqueue_batch(reversed(requests) if n % 2 else requests) for n in range(6)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, list)]
    assert len(won) == 1
    assert all(isinstance(lost, DuplicateJobId) for lost in results if lost is not won[0])
    assert (await queue.stats("q")).pending == 4


async def test_an_id_that_was_handed_out_is_looked_up_from_its_second_use_on(
    queue: Queue,
) -> None:
    held = hold_engine(queue)
    job_id = queue.next_job_id()
    await queue.enqueue("q", b"first", job_id=job_id)
    assert held.calls["get"] == 0
    with pytest.raises(DuplicateJobId):
        await queue.enqueue("q", b"second", job_id=job_id)
    own = queue.next_job_id()
    results = await asyncio.gather(
        *(queue.enqueue("q", b"", job_id=own) for _ in range(3)), return_exceptions=True
    )
    assert [isinstance(result, DuplicateJobId) for result in results] == [False, True, True]


async def test_ids_that_were_handed_out_and_not_used_are_not_kept_for_ever(queue: Queue) -> None:
    first = queue.next_job_id()
    await queue.enqueue("q", b"", job_id=first)
    ids = [queue.next_job_id() for _ in range(10_001)]
    held = hold_engine(queue)
    await queue.enqueue("q", b"", job_id=ids[-1])
    assert held.calls["get"] == 0
    await queue.enqueue("q", b"", job_id=ids[0])
    assert held.calls["get"] == 1
    with pytest.raises(DuplicateJobId):
        await queue.enqueue("q", b"", job_id=first)


async def test_a_batch_of_more_than_one_commit_should_hold_is_refused(queue: Queue) -> None:
    request = EnqueueRequest("q", b"")
    with pytest.raises(InvalidArgument, match="at most 10000 requests"):
        await queue.enqueue_batch(request for _ in range(10**9))
    assert (await queue.stats("q")).pending == 0


async def test_headers_are_bounded(queue: Queue) -> None:
    most = {f"{number:03}": "x" * 500 for number in range(128)}
    await queue.enqueue("q", b"", headers=most)
    with pytest.raises(InvalidArgument, match="at most 128 headers; got 129"):
        await queue.enqueue("q", b"", headers=most | {"one": "more"})
    with pytest.raises(InvalidArgument, match="at most 65536 UTF-8 bytes"):
        await queue.enqueue("q", b"", headers={"h": "\u00fc" * 32768})
    assert (await queue.stats("q")).pending == 1


@pytest.mark.parametrize("kind", ["dedup keys", "own ids", "large payloads"])
async def test_a_large_batch_is_looked_up_a_part_at_a_time(
    kind: str, open_queue: OpenQueue
) -> None:
    queue = await open_queue(payload_offload_threshold=1000)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0)

    def request(number: int) -> EnqueueRequest:
        match kind:
            case "dedup keys":
                return EnqueueRequest("q", b"", dedup_key=str(number))
            case "own ids":
                # Far apart, with others between them.
                return EnqueueRequest("q", b"", job_id=f"{number % 7}-{number}")
            case _:
                return EnqueueRequest("q", bytes(1001))

    watching = asyncio.create_task(watch())
    await queue.enqueue_batch([request(number) for number in range(2000)])
    assert len((await queue.list_jobs("q", "pending", limit=2000)).jobs) == 2000
    assert len(await queue.claim_batch("q", 2000)) == 2000
    watching.cancel()
    assert most < 300


async def test_a_batch_whose_jobs_write_differently_to_one_key_is_refused(queue: Queue) -> None:
    def job(key: str | bytes, value: bytes, dedup_key: str | None = None) -> EnqueueRequest:
        return EnqueueRequest("q", b"", kv_writes={key: value}, dedup_key=dedup_key)

    for requests in (
        [job("key", b"1"), job(b"key", b"2")],
        [job("key", b"1", "k"), job("key", b"2", "l")],
        [job("key", b"1", "k"), job("key", b"2")],
    ):
        with pytest.raises(InvalidArgument, match="'key' is in the kv_writes of two jobs"):
            await queue.enqueue_batch(requests)
        with pytest.raises(InvalidArgument, match="'key' is in the kv_writes of two jobs"):
            SettlementEffects(enqueues=requests)
    assert (await queue.stats("q")).pending == 0
    # No more than one of these is made, and the same again changes nothing.
    await queue.enqueue_batch([job("key", b"1", "k"), job("key", b"2", "k")])
    assert await queue.kv_get("key") == b"1"
    await queue.enqueue_batch([job("key", b"3"), job(b"key", b"3")])
    assert await queue.kv_get("key") == b"3"
