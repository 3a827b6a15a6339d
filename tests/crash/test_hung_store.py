"""A store hangs, fails or goes away: callers are told in time, memory follows the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from slatedb.uniffi import Error

from taquba import (
    Claim,
    DuplicateJobId,
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    QueueConfig,
    SettlementEffects,
    StoreError,
    run_worker,
)
from taquba._engine.engine import bounded
from taquba.testing import MockClock
from tests.crash.audit import audit
from tests.crash.held_engine import HeldEngine, hold_engine

IN_TIME = 5.0
"""Seconds within which a caller must hear of a store that hangs for longer than 0.15 s."""


@pytest.fixture
async def queue(mock_clock: MockClock) -> AsyncIterator[Queue]:
    config = QueueConfig(retry_backoff_base=0)
    async with Queue.open("memory://", default_config=config, clock=mock_clock) as queue:
        await mock_clock.advance(0)
        yield queue


@pytest.fixture
def held(queue: Queue) -> HeldEngine:
    return hold_engine(queue)


async def claimed(queue: Queue, count: int) -> list[Claim]:
    await queue.enqueue_batch([EnqueueRequest("q", b"x") for _ in range(count)])
    claims = await queue.claim_batch("q", count)
    assert len(claims) == count
    return claims


async def turns_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


async def fails_in_time(call: asyncio.Future[object]) -> None:
    with pytest.raises(StoreError, match="did not answer") as caught:
        await asyncio.wait_for(call, IN_TIME)
    assert not caught.value.permanent


@pytest.mark.parametrize("gate", ["write", "flush"])
async def test_callers_of_a_hung_store_are_told_and_their_commits_land_once(
    queue: Queue, held: HeldEngine, gate: str
) -> None:
    claims = await claimed(queue, 3)
    held.hold(gate)
    effects = SettlementEffects(kv_writes={"effect": b"1"}, enqueues=[EnqueueRequest("f", b"x")])
    calls = [
        asyncio.ensure_future(call)
        for call in (
            queue.enqueue("q", b"x"),
            queue.ack(claims[0], effects),
            queue.nack(claims[1], "no luck"),
            queue.dead_letter(claims[2], "hopeless"),
            queue.kv_put("entry", b"x"),
        )
    ]
    await asyncio.gather(*(fails_in_time(call) for call in calls))  # type: ignore[arg-type]
    held.release()
    state = await audit(queue)
    # All five were handed over before the store hung, so all five landed.
    assert state.counters["q"] == (2, 0, 0, 1, 1)
    assert state.counters["f"].pending == 1
    assert state.kv == {"effect": b"1", "entry": b"x"}
    # The queue works as before.
    await queue.enqueue("q", b"x")
    assert len(await queue.claim_batch("q", 10)) == 3
    await audit(queue)


async def test_a_repeated_enqueue_is_a_duplicate_only_once_the_first_is_durable(
    queue: Queue, held: HeldEngine
) -> None:
    held.hold("flush")
    for _ in range(2):
        # The outcome is as unknown the second time as the first.
        await fails_in_time(asyncio.ensure_future(queue.enqueue("q", b"x", job_id="own")))  # type: ignore[arg-type]
    held.release()
    with pytest.raises(DuplicateJobId):
        await queue.enqueue("q", b"x", job_id="own")


async def test_what_waited_behind_a_hung_write_is_withdrawn(queue: Queue, held: HeldEngine) -> None:
    claims = await claimed(queue, 4)
    scheduled = await queue.enqueue("q", b"x", delay=60)
    waiting = await queue.enqueue("q", b"x")
    dead = await queue.enqueue("dead", b"x")
    claim = await queue.claim("dead")
    assert claim is not None
    await queue.dead_letter(claim, "hopeless")
    before = await audit(queue)

    held.hold("write")
    handed_over = asyncio.ensure_future(queue.kv_put("handed over", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    effects = SettlementEffects(kv_writes={"effect": b"1"}, enqueues=[EnqueueRequest("f", b"x")])
    calls = [
        asyncio.ensure_future(call)
        for call in (
            queue.enqueue("q", b"x"),
            queue.enqueue("q", b"x", delay=10),
            queue.enqueue("q", b"x", dedup_key="key"),
            queue.enqueue("q", b"x", job_id="own"),
            queue.ack(claims[0], effects),
            queue.nack(claims[1], "no luck"),
            queue.dead_letter(claims[2], "hopeless"),
            queue.cancel(claims[3].id),
            queue.cancel(claims[3].id),
            queue.cancel(waiting.id),
            queue.wake_scheduled(scheduled.id),
            queue.requeue_dead(dead.id),
            queue.purge_dead(dead.id),
            queue.kv_put("entry", b"x"),
            queue.kv_compare_put("other", None, b"x"),
        )
    ]
    await asyncio.gather(*(fails_in_time(call) for call in (handed_over, *calls)))  # type: ignore[arg-type]
    held.release()
    state = await audit(queue)
    assert state.kv == {"handed over": b"x"}
    before.kv["handed over"] = b"x"
    assert state.jobs == before.jobs
    assert state.counters == before.counters
    assert not claims[3].cancel_token.cancelled

    # Everything can be done now that the store answers.
    await queue.ack(claims[0], effects)
    await queue.nack(claims[1], "no luck")
    await queue.dead_letter(claims[2], "hopeless")
    await queue.cancel(waiting.id)
    await queue.wake_scheduled(scheduled.id)
    await queue.requeue_dead(dead.id)
    assert (await queue.enqueue("q", b"x", dedup_key="key")).new
    assert (await queue.enqueue("q", b"x", job_id="own")).new
    assert await queue.kv_compare_put("other", None, b"x")
    await audit(queue)


@pytest.mark.parametrize("handed_over", [True, False])
async def test_jobs_of_a_claim_that_hung_are_available_once_the_store_answers(
    queue: Queue, held: HeldEngine, handed_over: bool
) -> None:
    ids = [r.id for r in await queue.enqueue_batch([EnqueueRequest("q", b"x") for _ in range(3)])]
    held.hold("write")
    calls = held.calls["write"]
    if not handed_over:
        asyncio.ensure_future(queue.kv_put("first", b"x")).add_done_callback(
            lambda call: call.exception()
        )
        await held.reached("write", calls + 1)
    claim = asyncio.ensure_future(queue.claim_batch("q", 3))
    await fails_in_time(claim)  # type: ignore[arg-type]
    held.release()
    # Nobody holds them, whether or not the claim landed: no lease has to run out first.
    await audit(queue)
    claims = await queue.claim_batch("q", 3)
    assert [claim.id for claim in claims] == ids
    assert [claim.attempts for claim in claims] == [1, 1, 1]


async def test_a_waiting_claim_gets_the_job_that_another_claim_could_not_take(
    queue: Queue, held: HeldEngine
) -> None:
    await queue.enqueue("q", b"x")
    held.hold("write")
    first = asyncio.ensure_future(queue.kv_put("first", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    hung = asyncio.ensure_future(queue.claim("q"))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(queue.claim("q", wait=3600))
    await fails_in_time(hung)  # type: ignore[arg-type]
    await fails_in_time(first)  # type: ignore[arg-type]
    held.release()
    claim = await asyncio.wait_for(waiting, IN_TIME)
    assert claim is not None
    await audit(queue)


async def test_a_waiting_claim_gets_the_job_whose_cancel_was_withdrawn(
    queue: Queue, held: HeldEngine
) -> None:
    job = await queue.enqueue("q", b"x")
    held.hold("write")
    first = asyncio.ensure_future(queue.kv_put("first", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    cancel = asyncio.ensure_future(queue.cancel(job.id))
    await turns_until(lambda: not queue._owner.queues["q"].window)
    waiting = asyncio.ensure_future(queue.claim("q", wait=3600))
    await fails_in_time(cancel)  # type: ignore[arg-type]
    await fails_in_time(first)  # type: ignore[arg-type]
    held.release()
    claim = await asyncio.wait_for(waiting, IN_TIME)
    assert claim is not None


async def test_a_scheduled_job_whose_cancel_was_withdrawn_starts_in_time(
    queue: Queue, held: HeldEngine, mock_clock: MockClock
) -> None:
    job = await queue.enqueue("q", b"x", delay=60)
    later = await queue.enqueue("q", b"x", delay=600)
    held.hold("write")
    first = asyncio.ensure_future(queue.kv_put("first", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    cancel = asyncio.ensure_future(queue.cancel(job.id))
    await turns_until(lambda: len(queue._owner.scheduled) == 1)
    # The scheduler looks again while the job is out of its sight.
    queue._owner.scheduler_alarm.ring()
    await fails_in_time(cancel)  # type: ignore[arg-type]
    await fails_in_time(first)  # type: ignore[arg-type]
    held.release()
    await audit(queue)
    await mock_clock.advance(60)
    claim = await queue.claim("q")
    assert claim is not None
    assert claim.id == job.id
    assert await queue.get_job(later.id) is not None


async def test_a_store_that_stays_silent_fails_every_call_in_time(
    queue: Queue, held: HeldEngine
) -> None:
    await queue.enqueue("q", b"x")
    held.hold("write")
    for _ in range(4):
        await fails_in_time(asyncio.ensure_future(queue.enqueue("q", b"y")))  # type: ignore[arg-type]
        await fails_in_time(asyncio.ensure_future(queue.claim("q")))  # type: ignore[arg-type]
    held.release()
    state = await audit(queue)
    # The first enqueue was handed over; the rest was withdrawn.
    assert state.counters["q"].pending == 2


async def test_a_hung_read_is_bounded() -> None:
    with pytest.raises(StoreError, match=r"within 0\.05 s \(reading a row\)") as caught:
        await bounded(asyncio.Event().wait(), "reading a row", 0.05)
    assert not caught.value.permanent


async def test_closing_a_queue_on_a_hung_store_ends(queue: Queue, held: HeldEngine) -> None:
    held.hold("write")
    call = asyncio.ensure_future(queue.enqueue("q", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    await asyncio.wait_for(queue.close(), 5)
    with pytest.raises(StoreError):
        await call


@pytest.mark.parametrize("step", ["write", "flush"])
@pytest.mark.parametrize(
    "error",
    [Error.Unavailable("no route"), Error.Internal("panic"), Error.Data("checksum")],
    ids=lambda error: type(error).__name__,
)
async def test_a_store_that_fails_is_reported_to_everybody_who_waits(
    queue: Queue, held: HeldEngine, step: str, error: Error, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "taquba")
    claims = await claimed(queue, 2)

    async def fail() -> None:
        raise error

    held.before[step] = fail
    calls = [
        asyncio.ensure_future(call)
        for call in (queue.enqueue("q", b"x"), queue.ack(claims[0]), queue.kv_put("k", b"v"))
    ]
    for call in calls:
        with pytest.raises(StoreError, match=r"the store failed|stopped"):
            await asyncio.wait_for(call, IN_TIME)
    held.before.clear()
    if step == "flush" and isinstance(error, Error.Unavailable):
        # Applied, and made durable by the next flush: the queue goes on.
        await queue.enqueue("q", b"x")
        state = await audit(queue)
        assert state.counters["q"] == (2, 0, 1, 1, 0)
    else:
        with pytest.raises(StoreError):
            await queue.enqueue("q", b"x")
        await asyncio.wait_for(queue.close(), 5)


@pytest.mark.allow_blocking("the test itself removes the store's folder")
@pytest.mark.parametrize("fsync", [True, False])
async def test_a_folder_that_is_removed_under_its_owner_is_reported(
    tmp_path: Path, fsync: bool
) -> None:
    store = tmp_path / "store"
    queue = await Queue.open(store, fsync=fsync)
    await queue.enqueue("q", b"x")
    shutil.rmtree(store)

    async def work() -> None:
        while True:
            await queue.enqueue("q", b"x")
            await asyncio.sleep(0.01)

    with pytest.raises(StoreError):
        await asyncio.wait_for(work(), 10)
    with contextlib.suppress(StoreError):
        await asyncio.wait_for(queue.close(), 40)


@pytest.mark.parametrize("read_fails", [False, True])
async def test_a_worker_cannot_settle_a_claim_that_was_withdrawn(
    queue: Queue, held: HeldEngine, read_fails: bool
) -> None:
    # A worker loop hands jobs out before their claim is written. Here the claim waits behind a
    # write that hangs, and the settlement waits for a look-up of its dedup key.
    await queue.enqueue("q", b"x")
    held.hold("write", "get")
    handed_over = asyncio.ensure_future(queue.kv_put("handed over", b"x"))
    await held.reached("write", held.calls["write"] + 1)
    runs: list[int] = []
    stop = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        runs.append(job.attempts)
        return SettlementEffects(enqueues=[EnqueueRequest("f", b"x", dedup_key="once")])

    async def unreadable() -> None:
        del held.before["get"]
        raise StoreError("no answer")

    worker = asyncio.create_task(run_worker(queue, "q", handle, shutdown=stop))
    await held.reached("get", held.calls["get"] + 1)
    await fails_in_time(handed_over)
    if read_fails:
        held.before["get"] = unreadable
    held.release()
    await turns_until(lambda: queue._owner.counters["q"].done == 1)
    stop.set()
    await worker
    state = await audit(queue)
    assert state.counters["q"] == (0, 0, 0, 1, 0)
    assert state.counters["f"].pending == 1
    # The run whose claim was never written did not count.
    assert runs == [1, 1]
