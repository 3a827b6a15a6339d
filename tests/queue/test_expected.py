"""Commits that are made only if entries are as they were read."""

from __future__ import annotations

import asyncio

import pytest

from taquba import (
    CancelOutcome,
    CancelRequested,
    EnqueueRequest,
    EntryChanged,
    InvalidArgument,
    InvalidArgumentType,
    JobStatus,
    SettlementEffects,
    Store,
    WakeOutcome,
)
from taquba.testing import MockClock
from tests.queue.support import must_claim

ONE = EnqueueRequest("q", b"")


async def test_a_batch_is_enqueued_if_entries_are_as_expected(queue: Store) -> None:
    await queue.kv_put("there", b"1")
    request = EnqueueRequest("q", b"", kv_writes={"absent": b"now there"})
    (first,) = await queue.enqueue_batch([request], kv_expected={"there": b"1", "absent": None})
    assert first.new
    with pytest.raises(EntryChanged) as error:
        await queue.enqueue_batch([request], kv_expected={"there": b"1", "absent": None})
    assert error.value.key == b"absent"
    assert (await queue.stats("q")).pending == 1


async def test_of_many_that_expect_the_same_one_is_enqueued(queue: Store) -> None:
    async def attempt() -> bool:
        request = EnqueueRequest("q", b"", kv_writes={"key": b"taken"})
        try:
            await queue.enqueue_batch([request], kv_expected={"key": None})
        except EntryChanged:
            return False
        return True

    assert (await asyncio.gather(*(attempt() for _ in range(50)))).count(True) == 1
    assert (await queue.stats("q")).pending == 1


async def test_a_plain_write_that_is_on_its_way_counts(queue: Store) -> None:
    async def attempt() -> bool:
        await asyncio.sleep(0)
        try:
            await queue.enqueue_batch([ONE], kv_expected={"key": None})
        except EntryChanged:
            return False
        return True

    for number in range(20):
        await queue.kv_delete("key")
        attempted, _ = await asyncio.gather(attempt(), queue.kv_put("key", b"%d" % number))
        # Whichever came first, it was one of the two.
        assert (await queue.stats("q")).pending == int(attempted)
        claims = await queue.claim_batch("q", 10)
        assert len(claims) == int(attempted)
        for claim in claims:
            await queue.ack(claim)


@pytest.mark.parametrize("end", ["ack", "nack", "dead_letter"])
async def test_a_settlement_is_refused_whole(queue: Store, end: str) -> None:
    await queue.enqueue("q", b"", max_attempts=1)
    claim = await must_claim(queue)
    effects = SettlementEffects(
        enqueues=[ONE], kv_writes={"b": b"2"}, kv_deletes=["c"], kv_expected={"a": b"1"}
    )
    call = {
        "ack": lambda: queue.ack(claim, effects),
        "nack": lambda: queue.nack(claim, "error", effects),
        "dead_letter": lambda: queue.dead_letter(claim, "reason", effects),
    }[end]
    await queue.kv_put("c", b"3")
    with pytest.raises(EntryChanged):
        await call()
    assert await queue.kv_get("b") is None
    assert await queue.kv_get("c") == b"3"
    job = await queue.get_job(claim.id)
    assert job is not None
    assert job.status is JobStatus.CLAIMED
    await queue.kv_put("a", b"1")
    await call()
    assert await queue.kv_get("b") == b"2"
    assert (await queue.stats("q")).pending == 1


async def test_a_settlement_unless_the_job_was_asked_to_cancel(queue: Store) -> None:
    await queue.enqueue("q", b"")
    claim = await must_claim(queue)
    assert await queue.cancel(claim.id) is CancelOutcome.REQUESTED
    with pytest.raises(CancelRequested):
        await queue.ack(claim, SettlementEffects(kv_writes={"a": b"1"}, unless_cancelled=True))
    assert await queue.kv_get("a") is None
    await queue.ack(claim, SettlementEffects(kv_writes={"a": b"1"}))
    assert await queue.kv_get("a") == b"1"


async def test_a_cancellation_with_other_entries_is_refused(queue: Store) -> None:
    enqueued = await queue.enqueue("q", b"")
    effects = SettlementEffects(kv_writes={"b": b"2"}, kv_expected={"a": b"1"})
    with pytest.raises(EntryChanged):
        await queue.cancel(enqueued.id, effects)
    assert (await queue.stats("q")).pending == 1
    await queue.kv_put("a", b"1")
    assert await queue.cancel(enqueued.id, effects) is CancelOutcome.REMOVED
    # Of a job that is gone there is nothing to decide.
    await queue.kv_delete("a")
    assert await queue.cancel(enqueued.id, effects) is CancelOutcome.NOT_FOUND


async def test_only_an_unbegun_job_is_woken(queue: Store, mock_clock: MockClock) -> None:
    enqueued = await queue.enqueue("q", b"", delay=60)
    assert await queue.wake_scheduled(enqueued.id, b"1", if_unbegun=True) is WakeOutcome.WOKEN
    again = await queue.wake_scheduled(enqueued.id, b"2", if_unbegun=True)
    assert again is WakeOutcome.NOT_SCHEDULED
    claim = await must_claim(queue)
    assert claim.wake_payload == b"1"
    await queue.nack(claim, "tried")
    again = await queue.wake_scheduled(enqueued.id, b"3", if_unbegun=True)
    assert again is WakeOutcome.NOT_SCHEDULED
    assert await queue.wake_scheduled(enqueued.id, b"4") is WakeOutcome.WOKEN
    assert (await must_claim(queue)).wake_payload == b"4"


async def test_what_is_read_is_durable_if_asked(queue: Store) -> None:
    await queue.kv_put("a", b"1")
    assert await queue.kv_get("a", durable=True) == b"1"
    assert await queue.kv_get("b", durable=True) is None


async def test_expectations_are_checked_before_anything_is_written(queue: Store) -> None:
    with pytest.raises(InvalidArgumentType, match="kv_expected must map keys to bytes or None"):
        await queue.enqueue_batch([ONE], kv_expected=["a"])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="kv_expected has the key 'a' twice"):
        await queue.enqueue_batch([ONE], kv_expected={"a": None, b"a": b"1"})
    with pytest.raises(InvalidArgumentType, match="the value of 'a' must be bytes, not str"):
        SettlementEffects(kv_expected={"a": "1"})  # type: ignore[dict-item]
    assert (await queue.stats("q")).pending == 0
