"""A write that landed though its client does not know it is not lost, not doubled, and no fence.

What fences an owner is an object that is there already where it wants to create one. After a lost
reply it finds its own: the storage engine has to tell the two apart.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from taquba import StoreFenced
from tests.crash.audit import audit
from tests.faults.support import FaultyStore
from tests.queue.support import must_claim
from tests.servers.faults import Faults

LOST = {
    "connection reset": Faults(lose_reply=1),
    "answered 500": Faults(fail_reply=1),
}

in_both_ways = pytest.mark.parametrize("how", LOST)


@in_both_ways
@pytest.mark.parametrize(
    ("limit", "methods"),
    [(1, ("PUT",)), (4, ("PUT",)), (4, ("PUT", "HEAD"))],
    ids=["once", "again and again", "and so is the look at it"],
)
async def test_an_owner_knows_its_own_write_ahead_object(
    store: FaultyStore, how: str, limit: int, methods: tuple[str, ...]
) -> None:
    async with await store.open() as queue:
        await store.proxy.inject(replace(LOST[how], limit=limit, methods=methods, kinds=("wal",)))
        jobs = await asyncio.gather(*(queue.enqueue("q", b"x") for _ in range(5)))
        assert (await store.proxy.counts()).of(kind="wal").struck == limit
        claim = await must_claim(queue)
        await queue.ack(claim)
    async with store.next_owner() as new:
        state = await audit(new)
        assert state.jobs.keys() == {job.id for job in jobs} - {claim.id}
        assert state.counters["q"] == (4, 0, 0, 1, 0)


@in_both_ways
async def test_an_owner_opens_and_closes_though_replies_are_lost(
    store: FaultyStore, how: str
) -> None:
    jobs: set[str] = set()
    for _ in range(3):
        # Opening and closing write manifests, too, and each names the one before.
        await store.proxy.inject(
            replace(LOST[how], limit=3, methods=("PUT",), kinds=("manifest", "wal"))
        )
        queue = await store.open()
        await store.proxy.inject(
            replace(LOST[how], limit=3, methods=("PUT",), kinds=("manifest", "compacted"))
        )
        jobs.add((await queue.enqueue("q", b"x")).id)
        await queue.close()
    counts = await store.proxy.counts()
    assert counts.of(kind="manifest").struck
    assert counts.of(kind="compacted").struck
    async with store.next_owner() as new:
        assert (await audit(new)).jobs.keys() == jobs


@in_both_ways
async def test_a_fence_is_told_from_a_lost_reply(store: FaultyStore, how: str) -> None:
    queue = await store.open()
    await queue.enqueue("q", b"x")
    async with store.next_owner() as new:
        before = await audit(new)
        await store.proxy.inject(replace(LOST[how], limit=3, methods=("PUT",)))
        with pytest.raises(StoreFenced):
            async with asyncio.timeout(30):
                await queue.enqueue("q", b"not ours to write")
        await asyncio.wait_for(queue.close(), 30)
        assert (await audit(new)).rows == before.rows
