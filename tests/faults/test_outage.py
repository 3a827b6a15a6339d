"""A store that is away, or silent: callers are told in time, and the owner goes on or says why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import pytest

from taquba import (
    DuplicateJobId,
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    QueueClosed,
    StoreError,
    run_worker,
)
from taquba._engine import reopening
from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.location import StoreLocation
from tests.crash.audit import audit
from tests.crash.held_engine import give_up_after
from tests.faults.support import FaultyStore, working
from tests.servers.faults import Faults

AWAY = {
    "connections reset": Faults(reset=1),
    "answers 503": Faults(refuse=1),
    "silent": Faults(hang=1),
    "silent after writing": Faults(hang_reply=1),
}


async def enqueue_until_known(queue: Queue, job_id: str) -> int:
    """Repeat an enqueue until its outcome is known; how often it was not."""
    unknown = 0
    while True:
        try:
            await queue.enqueue("q", b"x", job_id=job_id)
        except DuplicateJobId:
            if not unknown:
                raise
        except StoreError as error:
            if error.permanent:
                raise
            unknown += 1
            continue
        return unknown


@pytest.mark.parametrize("how", AWAY)
async def test_an_owner_goes_on_when_its_store_comes_back(store: FaultyStore, how: str) -> None:
    queue = await store.open()
    first = await queue.enqueue("q", b"x")
    give_up_after(queue._owner.committer, 0.3)
    await store.proxy.inject(AWAY[how])
    calls = [asyncio.create_task(enqueue_until_known(queue, f"own-{n}")) for n in range(5)]
    await asyncio.sleep(1.5)
    assert not any(call.done() for call in calls)
    await store.proxy.calm()
    async with asyncio.timeout(30):
        unknown = await asyncio.gather(*calls)
    # They were told in between.
    assert min(unknown) >= 1
    give_up_after(queue._owner.committer, OPERATION_TIMEOUT)
    await queue.enqueue("q", b"x", job_id="later")
    await queue.close()
    async with store.next_owner() as new:
        state = await audit(new)
        assert state.jobs.keys() == {first.id, "later", *(f"own-{n}" for n in range(5))}


async def test_an_owner_that_gives_its_store_up_says_so(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "taquba")
    # After half a minute; here sooner.
    monkeypatch.setattr(StoreLocation, "retries", 2)
    monkeypatch.setattr(reopening, "PATIENCE", 2.0)
    queue = await store.open()
    kept = await queue.enqueue("q", b"x")
    waiting = asyncio.create_task(queue.claim("empty", wait=3600))
    await store.proxy.inject(Faults(reset=1))
    with pytest.raises(StoreError, match=r"stopped \(.*[Uu]navailable.*open it again") as caught:
        await asyncio.wait_for(enqueue_until_known(queue, "unknown"), 20)
    assert caught.value.permanent
    with pytest.raises(StoreError, match="navailable"):
        await asyncio.wait_for(waiting, 5)
    await store.proxy.calm()
    # The store is back, but this owner does not know what became of its writes.
    with pytest.raises(StoreError):
        await queue.enqueue("q", b"z")
    await asyncio.wait_for(queue.close(), 30)
    async with store.next_owner() as new:
        state = await audit(new)
        assert kept.id in state.jobs
        assert state.jobs.keys() <= {kept.id, "unknown"}


async def test_workers_and_producers_live_through_a_short_outage(store: FaultyStore) -> None:
    jobs = 60
    runs: list[str] = []
    stop = asyncio.Event()
    queue = await store.open()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        runs.append(job.id)
        if len(set(runs)) == jobs:
            stop.set()

    async def produce() -> list[str]:
        ids: list[str] = []
        for _ in range(jobs // 3):
            ids.append((await queue.enqueue("q", b"x")).id)
            await asyncio.sleep(0.02)
        return ids

    worker = asyncio.create_task(run_worker(queue, "q", handle, concurrency=5, shutdown=stop))
    producers = [asyncio.create_task(produce()) for _ in range(3)]
    await asyncio.sleep(0.1)
    await store.proxy.inject(Faults(refuse=0.5, reset=0.5))
    await asyncio.sleep(1)
    await store.proxy.calm()
    async with asyncio.timeout(20):
        produced = [job_id for ids in await asyncio.gather(*producers) for job_id in ids]
        await worker
    # No lease ran out, so no job ran twice.
    assert sorted(runs) == sorted(produced)
    state = await audit(queue)
    assert state.counters["q"] == (0, 0, 0, jobs, 0)
    await queue.close()


async def test_a_reader_goes_on_after_an_outage(store: FaultyStore) -> None:
    queue = await store.open()
    await queue.enqueue_batch([EnqueueRequest("q", b"x")] * 3)
    reader = await store.open_reader()
    await store.proxy.inject(Faults(reset=1))
    await asyncio.sleep(1)
    await store.proxy.calm()
    await queue.enqueue("q", b"x")
    async with asyncio.timeout(20):
        # A reader looks at the store in its own time: there is no event to wait for.
        while (await reader.stats("q")).pending != 4:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await reader.close()
    await queue.close()


@pytest.mark.long
@pytest.mark.parametrize("how", AWAY)
async def test_closing_is_bounded_though_the_store_is_away(store: FaultyStore, how: str) -> None:
    queue = await store.open()
    kept = await queue.enqueue("q", b"x")
    await store.proxy.inject(AWAY[how])
    call = asyncio.create_task(queue.enqueue("q", b"y"))
    with contextlib.suppress(StoreError):
        await asyncio.wait_for(queue.close(), 120)
    with pytest.raises((StoreError, QueueClosed)):
        await asyncio.wait_for(call, 1)
    await store.proxy.calm()
    async with store.next_owner() as new:
        assert kept.id in (await audit(new)).jobs


@pytest.mark.long
async def test_a_minute_of_silence_holds_nobody_up(store: FaultyStore, tmp_path: Path) -> None:
    queue = await store.open()
    async with working(queue, tmp_path / "log", 1) as work:
        await work.goes_on()
        await store.proxy.inject(Faults(hang_reply=1))
        started = time.monotonic()
        await asyncio.sleep(60)
        await store.proxy.calm()
        await work.goes_on(seconds=60)
        assert time.monotonic() - started < 120
    assert work.queue.unknown
    # Two steps: the object of a large payload, and the commit.
    assert work.queue.longest < 2 * OPERATION_TIMEOUT + 10
    await queue.close()
    await store.examine(work)
