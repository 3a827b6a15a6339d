"""What the machine found, or reading beside it, as small tests of their own."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from taquba import (
    CancelOutcome,
    EnqueueRequest,
    Queue,
    QueueConfig,
    SettlementEffects,
    StoreError,
)
from taquba.testing import MockClock

NAMES = count()


def fresh_url() -> str:
    return f"memory://found-{next(NAMES)}"


async def after_turns(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_two_owners_in_one_millisecond_draw_different_ids() -> None:
    clock, url = MockClock(), fresh_url()
    ids: list[str] = []
    for _ in range(4):
        async with Queue.open(url, clock=clock) as queue:
            ids += [(await queue.enqueue("q", b"")).id for _ in range(3)]
    assert len(set(ids)) == len(ids)
    async with Queue.open(url, clock=clock) as queue:
        assert len(await queue.claim_batch("q", 100)) == len(ids)


@pytest.mark.parametrize("turns", range(0, 12))
async def test_cancel_and_ack_of_one_job_with_effects_on_one_dedup_key_do_not_block_each_other(
    turns: int,
) -> None:
    effects = SettlementEffects(enqueues=[EnqueueRequest("next", b"", dedup_key="k")])
    async with Queue.open("memory://", clock=MockClock()) as queue:
        await queue.enqueue("q", b"")
        claim = await queue.claim("q")
        assert claim is not None

        async def ack() -> None:
            await after_turns(turns)
            await queue.ack(claim, effects)

        async with asyncio.timeout(5):
            outcome, _ = await asyncio.gather(queue.cancel(claim.id, effects), ack())
        assert outcome in (CancelOutcome.REQUESTED, CancelOutcome.NOT_FOUND)
        assert len((await queue.list_jobs("next", "pending")).jobs) == 1


async def test_effects_of_a_cancel_that_removes_nothing_are_not_looked_at() -> None:
    async with Queue.open("memory://", clock=MockClock()) as queue:
        await queue.enqueue("q", b"", job_id="taken")
        claim = await queue.claim("q")
        assert claim is not None
        effects = SettlementEffects(enqueues=[EnqueueRequest("q", b"", job_id="taken")])
        assert await queue.cancel("taken", effects) is CancelOutcome.REQUESTED
        assert await queue.cancel("unknown", effects) is CancelOutcome.NOT_FOUND


async def test_of_two_cancels_that_bring_one_replacement_the_later_finds_nothing() -> None:
    async with Queue.open("memory://", clock=MockClock()) as queue:
        job = await queue.enqueue("q", b"")
        effects = SettlementEffects(enqueues=[EnqueueRequest("q", b"", job_id="replacement")])
        outcomes = await asyncio.gather(*(queue.cancel(job.id, effects) for _ in range(3)))
        assert sorted(outcomes) == ["not_found", "not_found", "removed"]


async def test_dead_jobs_go_although_the_sweep_that_was_due_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = MockClock()
    config = QueueConfig(dead_retention=10)
    async with Queue.open("memory://", clock=clock, default_config=config) as queue:
        job = await queue.enqueue("q", b"")
        claim = await queue.claim("q")
        assert claim is not None
        await queue.dead_letter(claim, "no")

        async def hiccup(*_: object, **__: object) -> list[tuple[bytes, bytes]]:
            raise StoreError("the store did not answer")

        with monkeypatch.context() as outage:
            outage.setattr(queue._owner.engine, "read_range", hiccup)
            await clock.advance(15)
        assert await queue.get_job(job.id) is not None
        await clock.advance(5)
        assert await queue.get_job(job.id) is None


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_a_sweep_by_hand_takes_nothing_from_the_retention_that_runs_beside_it(
    turns: int,
) -> None:
    clock = MockClock()
    configs = {"slow": QueueConfig(keep_done_jobs=30), "fast": QueueConfig(keep_done_jobs=1)}
    async with Queue.open("memory://", clock=clock, queue_configs=configs) as queue:
        slow = await queue.enqueue("slow", b"")
        claim = await queue.claim("slow")
        assert claim is not None
        await queue.ack(claim)
        await queue.enqueue("fast", b"")
        claim = await queue.claim("fast")
        assert claim is not None

        async def sweep() -> None:
            await after_turns(turns)
            await queue.sweep_now()

        await queue.ack(claim)
        # The retention looks when the fast job is due, and finds the slow one being looked at.
        await asyncio.gather(clock.advance(1), sweep())
        await clock.advance(30)
        assert await queue.get_job(slow.id) is None
