"""Payloads over the threshold: objects of their own, read transparently, gone with their job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import (
    AttemptOutcome,
    CancelOutcome,
    DuplicateJobId,
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    PayloadMissing,
    PermanentFailure,
    Queue,
    QueueConfig,
    QueueReader,
    SettlementEffects,
    StoreError,
    run_worker,
)
from taquba.testing import MockClock, drain
from tests.payloads.support import payload_objects, referred, remove_payload
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, fresh_url, must_claim

LIMIT = 100
BIG = b"b" * (LIMIT + 1)
BIGGER = b"c" * (10 * LIMIT)


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Queue:
    return await open_queue(
        fresh_url(),
        payload_offload_threshold=LIMIT,
        queue_configs={
            "kept": QueueConfig(keep_done_jobs=60, dead_retention=60),
            "once": QueueConfig(max_attempts=1, dead_retention=60),
            "retry": QueueConfig(**NO_RETRY_WAIT),
        },
    )


@pytest.fixture(params=["memory", "folder"])
async def any_queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Queue]:
    url = fresh_url() if request.param == "memory" else tmp_path / "odd name #%20"
    async with Queue.open(url, payload_offload_threshold=LIMIT) as queue:
        yield queue


def files_below(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


# -- a payload's way ----------------------------------------------------------------------------


async def test_a_large_payload_is_read_by_whoever_meets_its_job(any_queue: Queue) -> None:
    queue = any_queue
    job_id, _ = await queue.enqueue("q", BIG)
    found = await queue.get_job(job_id)
    assert found is not None
    assert found.payload == BIG
    assert {found.payload_ref} == await payload_objects(queue)
    assert [job.payload for job in (await queue.list_jobs("q", "pending")).jobs] == [BIG]
    claim = await must_claim(queue)
    assert claim.payload == claim.job.payload == BIG


async def test_a_small_payload_stays_in_its_record(any_queue: Queue) -> None:
    job_id, _ = await any_queue.enqueue("q", BIG[:LIMIT])
    found = await any_queue.get_job(job_id)
    assert found is not None
    assert found.payload_ref is None
    assert await payload_objects(any_queue) == set()


async def test_its_object_goes_with_the_ack(any_queue: Queue) -> None:
    await any_queue.enqueue("q", BIG)
    await any_queue.ack(await must_claim(any_queue))
    assert await payload_objects(any_queue) == set()


async def test_its_object_goes_with_a_cancelled_job(queue: Queue) -> None:
    waiting, _ = await queue.enqueue("q", BIG)
    scheduled, _ = await queue.enqueue("q", BIG, delay=60)
    for job_id in (waiting, scheduled):
        assert await queue.cancel(job_id) is CancelOutcome.REMOVED
    assert await payload_objects(queue) == set()


@pytest.mark.parametrize("ending", ["ack", "dead_letter"])
async def test_a_kept_job_keeps_its_object_until_retention_ends(
    queue: Queue, mock_clock: MockClock, ending: str
) -> None:
    job_id, _ = await queue.enqueue("kept", BIG)
    claim = await must_claim(queue, "kept")
    if ending == "ack":
        await queue.ack(claim)
    else:
        await queue.dead_letter(claim, "broken")
    found = await queue.get_job(job_id)
    assert found is not None
    assert found.payload == BIG
    await mock_clock.advance(61)
    assert await queue.get_job(job_id) is None
    assert await payload_objects(queue) == set()


async def test_it_survives_retries_a_dead_letter_and_a_requeue(queue: Queue) -> None:
    job_id, _ = await queue.enqueue("retry", BIG)
    for _ in range(2):
        assert (await queue.nack(await must_claim(queue, "retry"), "again")).retried
    claim = await must_claim(queue, "retry")
    assert claim.payload == BIG
    assert (await queue.nack(claim, "enough")).dead_lettered
    await queue.requeue_dead(job_id)
    claim = await must_claim(queue, "retry")
    assert claim.payload == BIG
    await queue.ack(claim)
    assert await payload_objects(queue) == set()


async def test_it_survives_a_restart_with_another_threshold(open_queue: OpenQueue) -> None:
    url = fresh_url()
    async with await open_queue(url, payload_offload_threshold=LIMIT) as first:
        await first.enqueue("q", BIG)
        await must_claim(first)
    async with await open_queue(url, payload_offload_threshold=None) as second:
        await second.enqueue("q", BIGGER)
        # Two owners on a clock that stands still: either may have drawn the lower id.
        claims = await second.claim_batch("q", 2)
        assert {claim.payload: claim.payload_ref is None for claim in claims} == {
            BIG: False,
            BIGGER: True,
        }


async def test_without_a_threshold_every_payload_stays_in_its_record(
    open_queue: OpenQueue,
) -> None:
    queue = await open_queue(payload_offload_threshold=None)
    await queue.enqueue("q", b"x" * 1_000_000)
    assert await payload_objects(queue) == set()


async def test_payload_url_says_where_the_objects_are(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "else" / "where"
    async with Queue.open(store, payload_offload_threshold=0, payload_url=elsewhere) as queue:
        await queue.enqueue("q", b"x")
        assert files_below(elsewhere) == 1
        assert not (tmp_path / "store-payloads").exists()
        async with QueueReader.open(store, payload_url=elsewhere) as reader:
            (job,) = (await reader.list_jobs("q", "pending")).jobs
            assert job.payload == b"x"
        async with QueueReader.open(store) as reader:
            (job,) = (await reader.list_jobs("q", "pending")).jobs
            with pytest.raises(PayloadMissing, match="payload_url"):
                job.payload  # noqa: B018 - reading it is what raises


async def test_the_objects_lie_next_to_the_store_by_default(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store", payload_offload_threshold=0) as queue:
        assert not (tmp_path / "store-payloads").exists()
        await queue.enqueue("q", b"x")
        assert (tmp_path / "store-payloads").is_dir()


async def test_stores_that_share_a_payload_url_do_not_see_each_other(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    options = {"payload_offload_threshold": 0, "payload_url": fresh_url()}
    one, two = await open_queue(fresh_url(), **options), await open_queue(fresh_url(), **options)
    await one.enqueue("q", b"one", job_id="same")
    await two.enqueue("q", b"two", job_id="same")
    await mock_clock.advance(timedelta(hours=2))
    await one.sweep_now()
    assert (await must_claim(one)).payload == b"one"
    assert (await must_claim(two)).payload == b"two"


async def test_a_worker_reads_it_before_it_starts_the_handler(queue: Queue) -> None:
    stop = asyncio.Event()
    seen: list[bytes] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.payload)
        if len(seen) == 2:
            stop.set()

    await queue.enqueue_batch([EnqueueRequest("q", BIG), EnqueueRequest("q", BIGGER)])
    await run_worker(queue, "q", handler, concurrency=1, shutdown=stop)
    assert seen == [BIG, BIGGER]
    assert await payload_objects(queue) == set()


async def test_the_event_loop_runs_while_payloads_move(tmp_path: Path) -> None:
    # The autouse guard fails this test on a blocking call.
    async with Queue.open(tmp_path / "store", payload_offload_threshold=LIMIT) as queue:
        await queue.enqueue_batch([EnqueueRequest("q", BIG)] * 20)
        for claim in await queue.claim_batch("q", 20):
            await queue.ack(claim)


# -- enqueueing ---------------------------------------------------------------------------------


async def test_a_held_dedup_key_uploads_nothing(queue: Queue) -> None:
    first, _ = await queue.enqueue("q", BIG, dedup_key="k")
    before = await payload_objects(queue)
    assert await queue.enqueue("q", BIGGER, dedup_key="k") == (first, False)
    assert await payload_objects(queue) == before


async def test_racing_enqueues_of_one_dedup_key_leave_one_object(queue: Queue) -> None:
    results = await asyncio.gather(*(queue.enqueue("q", BIG, dedup_key="k") for _ in range(10)))
    assert sum(result.new for result in results) == 1
    assert await payload_objects(queue) == await referred(queue)


async def test_a_batch_that_names_one_dedup_key_twice_leaves_one_object(queue: Queue) -> None:
    twice = [EnqueueRequest("q", payload, dedup_key="k") for payload in (BIG, BIGGER)]
    first, second = await queue.enqueue_batch(twice)
    assert (first.new, second) == (True, (first.id, False))
    assert await payload_objects(queue) == await referred(queue)
    assert (await must_claim(queue)).payload == BIG


async def test_a_refused_id_leaves_no_object(queue: Queue) -> None:
    await queue.enqueue("q", BIG, job_id="mine")
    before = await payload_objects(queue)
    with pytest.raises(DuplicateJobId):
        await queue.enqueue_batch(
            [EnqueueRequest("q", BIGGER), EnqueueRequest("q", BIGGER, job_id="mine")]
        )
    assert await payload_objects(queue) == before


async def test_an_id_may_come_again_with_another_payload(queue: Queue) -> None:
    for payload in (BIG, BIGGER, b"small", BIG):
        await queue.enqueue("q", payload, job_id="mine")
        claim = await must_claim(queue)
        assert claim.payload == payload
        await queue.ack(claim)
    assert await payload_objects(queue) == set()


async def test_effects_of_a_settlement_carry_large_payloads(queue: Queue) -> None:
    await queue.enqueue("q", b"")
    effects = SettlementEffects(enqueues=[EnqueueRequest("next", BIG)])
    await queue.ack(await must_claim(queue), effects)
    assert (await must_claim(queue, "next")).payload == BIG


async def test_effects_that_are_discarded_leave_no_object(queue: Queue) -> None:
    await queue.enqueue("retry", b"")
    effects = SettlementEffects(enqueues=[EnqueueRequest("next", BIG)])
    assert (await queue.nack(await must_claim(queue, "retry"), "again", effects)).retried
    assert await payload_objects(queue) == set()


async def test_a_cancelled_enqueue_leaves_nothing_or_a_whole_job(queue: Queue) -> None:
    calls = [asyncio.create_task(queue.enqueue("q", BIG)) for _ in range(40)]
    for turns, call in enumerate(calls):
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await queue.stats("q")
    assert await referred(queue) <= await payload_objects(queue)
    for claim in await queue.claim_batch("q", 100):
        assert claim.payload == BIG


# -- objects that are not there -----------------------------------------------------------------


PAUSES = (2, 15, 120, 600)
"""Seconds after which a payload that was not found is looked for again."""


async def look_until_dead(queue: Queue, clock: MockClock) -> None:
    """Claim whenever a look for a payload is due, as a worker would."""
    assert await queue.claim("q") is None
    for pause in PAUSES:
        await clock.advance(pause - 1)
        assert (await queue.stats("q")).pending == 0
        assert (await queue.stats("q")).dead == 0
        await clock.advance(1)
        assert await queue.claim("q") is None


async def test_a_missing_object_puts_its_job_off_and_not_the_batch(any_queue: Queue) -> None:
    queue = any_queue
    ids = [(await queue.enqueue("q", BIG)).id for _ in range(3)]
    await remove_payload(queue, ids[1])
    assert [claim.id for claim in await queue.claim_batch("q", 3)] == [ids[0], ids[2]]
    (waiting,) = (await queue.list_jobs("q", "scheduled", payloads=False)).jobs
    assert (waiting.id, waiting.attempts) == (ids[1], 0)
    assert waiting.last_error is not None
    assert "payload_url" in waiting.last_error


async def test_a_payload_that_is_found_later_costs_its_job_nothing(
    queue: Queue, mock_clock: MockClock
) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    (ref,) = await payload_objects(queue)
    await remove_payload(queue, lost)
    assert await queue.claim("q") is None
    await mock_clock.advance(PAUSES[0])
    assert await queue.claim("q") is None
    payloads = queue._owner.payloads
    await payloads._objects.put(f"{payloads._prefix}/{ref}", BIG)
    await mock_clock.advance(PAUSES[1])
    claim = await must_claim(queue)
    assert (claim.payload, claim.attempts) == (BIG, 1)
    outcomes = [attempt.outcome for attempt in await queue.attempt_history(lost)]
    assert outcomes == [AttemptOutcome.PAYLOAD_MISSING] * 2


async def test_a_payload_that_is_not_found_for_long_makes_a_dead_letter(
    queue: Queue, mock_clock: MockClock
) -> None:
    lost, _ = await queue.enqueue("q", BIG, max_attempts=1)
    await remove_payload(queue, lost)
    await look_until_dead(queue, mock_clock)
    (dead,) = (await queue.dead_jobs("q")).jobs
    assert dead.id == lost
    assert dead.last_error is not None
    assert dead.last_error.endswith("looked for it 5 times in 12 min")


async def test_looks_for_a_payload_add_up_over_owners(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    lost = None
    for pause in (0, *PAUSES):
        async with Queue.open(url, payload_offload_threshold=LIMIT, clock=mock_clock) as queue:
            if lost is None:
                lost, _ = await queue.enqueue("q", BIG)
                await remove_payload(queue, lost)
            assert (await queue.stats("q")).dead == 0
            await mock_clock.advance(pause)
            assert await queue.claim("q") is None
    queue = await open_queue(url)
    assert [job.id for job in (await queue.dead_jobs("q")).jobs] == [lost]


async def test_looks_long_apart_do_not_add_up(queue: Queue, mock_clock: MockClock) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    await remove_payload(queue, lost)
    for _ in range(10):
        assert await queue.claim("q") is None
        await mock_clock.advance(timedelta(hours=2))
    assert (await queue.stats("q")).dead == 0


async def test_a_claim_passes_over_jobs_without_their_object(queue: Queue) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    kept, _ = await queue.enqueue("q", b"")
    await remove_payload(queue, lost)
    assert (await must_claim(queue)).id == kept
    assert await queue.claim("q") is None


async def test_a_worker_dead_letters_a_job_whose_object_stays_away(
    queue: Queue, mock_clock: MockClock
) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    await queue.enqueue("q", BIG)
    await remove_payload(queue, lost)
    seen: list[str] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.id)

    for pause in (*PAUSES, 0):
        await drain(queue, "q", handler)
        await mock_clock.advance(pause)
    assert lost not in seen
    assert len(seen) == 1
    assert [job.id for job in (await queue.dead_jobs("q")).jobs] == [lost]


async def test_a_record_without_its_object_says_so_where_its_payload_is_read(
    queue: Queue,
) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    await remove_payload(queue, lost)
    found = await queue.get_job(lost)
    assert found is not None
    assert str(found.payload_ref) in repr(found)
    with pytest.raises(PayloadMissing, match=lost):
        found.payload  # noqa: B018 - reading it is what raises
    (listed,) = (await queue.list_jobs("q", "pending")).jobs
    with pytest.raises(PayloadMissing, match=lost):
        listed.payload  # noqa: B018 - reading it is what raises


async def test_a_listing_can_leave_large_payloads_alone(queue: Queue) -> None:
    await queue.enqueue("q", BIG)
    await queue.enqueue("q", b"small")
    large, small = (await queue.list_jobs("q", "pending", payloads=False)).jobs
    assert small.payload == b"small"
    with pytest.raises(PayloadMissing, match="payloads=False"):
        large.payload  # noqa: B018 - reading it is what raises


async def test_a_dead_job_whose_object_came_back_can_be_requeued(
    queue: Queue, mock_clock: MockClock
) -> None:
    lost, _ = await queue.enqueue("q", BIG)
    payloads = queue._owner.payloads
    (ref,) = await payload_objects(queue)
    await remove_payload(queue, lost)
    await look_until_dead(queue, mock_clock)
    await payloads._objects.put(f"{payloads._prefix}/{ref}", BIG)
    await queue.requeue_dead(lost)
    assert (await must_claim(queue)).payload == BIG


async def test_a_handler_that_fails_permanently_keeps_the_payload(queue: Queue) -> None:
    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        raise PermanentFailure("no")

    await queue.enqueue("once", BIG)
    await drain(queue, "once", handler)
    (dead,) = (await queue.dead_jobs("once")).jobs
    assert dead.payload == BIG


# -- sizes around the threshold -----------------------------------------------------------------


@given(
    threshold=st.integers(0, 300),
    sizes=st.lists(st.integers(0, 600), min_size=1, max_size=8),
    keep=st.booleans(),
)
def test_every_size_comes_back_and_leaves_nothing(
    threshold: int, sizes: list[int], keep: bool
) -> None:
    async def run() -> None:
        config = QueueConfig(keep_done_jobs=10 if keep else None)
        clock = MockClock()
        async with Queue.open(
            fresh_url(), clock=clock, payload_offload_threshold=threshold, default_config=config
        ) as queue:
            payloads = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
            await queue.enqueue_batch([EnqueueRequest("q", payload) for payload in payloads])
            large = [payload for payload in payloads if len(payload) > threshold]
            assert len(await payload_objects(queue)) == len(large)
            claims = await queue.claim_batch("q", len(sizes))
            assert [claim.payload for claim in claims] == payloads
            for claim in claims:
                await queue.ack(claim)
            await clock.advance(11)
            assert await payload_objects(queue) == set()

    asyncio.run(run())


# -- a place that cannot be used ----------------------------------------------------------------


@pytest.mark.allow_blocking("the test itself puts a file in the way")
async def test_a_payload_that_cannot_be_written_says_where_and_enqueues_nothing(
    tmp_path: Path,
) -> None:
    async with Queue.open(tmp_path / "store", payload_offload_threshold=LIMIT) as queue:
        (tmp_path / "store-payloads").write_text("in the way")
        with pytest.raises(StoreError, match="store-payloads"):
            await queue.enqueue("q", BIG)
        assert (await queue.stats("q")).pending == 0
        (tmp_path / "store-payloads").unlink()
        await queue.enqueue("q", BIG)
        assert (await must_claim(queue)).payload == BIG


@pytest.mark.allow_blocking("the test itself moves the folder")
async def test_no_job_is_dead_lettered_while_the_place_of_all_payloads_is_gone(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    place, away = tmp_path / "payloads", tmp_path / "unmounted"
    async with Queue.open(
        tmp_path / "store", payload_offload_threshold=LIMIT, payload_url=place, clock=mock_clock
    ) as queue:
        await queue.enqueue("q", BIG)
        place.rename(away)
        with pytest.raises(StoreError, match="mount or restore it"):
            await queue.claim("q")
        (job,) = (await queue.list_jobs("q", "scheduled", payloads=False)).jobs
        assert job.attempts == 0
        away.rename(place)
        await mock_clock.advance(5)
        assert (await must_claim(queue)).payload == BIG
