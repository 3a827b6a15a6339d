"""A new owner opens the store while the old one works: the old one stops, and says so (I7)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    EnqueueRequest,
    JobRecord,
    LeaseHandle,
    Queue,
    SettlementEffects,
    StoreFenced,
    WorkerSpec,
    run_worker,
    run_workers,
)
from taquba.testing import MockClock
from tests.crash.audit import Dump, audit, dump
from tests.crash.children import ChildProcess, Ledger
from tests.crash.worker_child import CONFIG, EXIT_FENCED

SOON = 2.5
"""Seconds within which everybody who waits on a fenced queue must be told."""


@pytest.fixture(params=["memory", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path}"
    return str(tmp_path / "store")


@contextlib.asynccontextmanager
async def next_owner(url: str) -> AsyncIterator[Queue]:
    """Another owner, whose clock stands still, so that nothing moves in it by itself."""
    clock = MockClock(datetime.now(UTC))
    async with Queue.open(url, default_config=CONFIG, clock=clock, take_over=True) as queue:
        await clock.advance(0)
        yield queue


class OldOwner:
    """Works on a queue with many tasks, and remembers what was acknowledged."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.enqueued: set[str] = set()
        self.acked: set[str] = set()
        self.at_work = asyncio.Event()
        self.kv: dict[str, bytes] = {}

    async def produce(self, seed: int) -> None:
        chance = random.Random(seed)
        while True:
            requests: list[EnqueueRequest] = []
            for _ in range(chance.choice((1, 1, 3))):
                job_id = self.queue.next_job_id()
                requests.append(
                    EnqueueRequest(
                        "q",
                        b"x" * 50,
                        job_id=job_id,
                        delay=chance.choice((None, None, 0.01)),
                        kv_writes={f"born/{job_id}": b""},
                    )
                )
            results = await self.queue.enqueue_batch(requests)
            self.enqueued.update(result.id for result in results)

    async def work(self) -> None:
        while True:
            for claim in await self.queue.claim_batch("q", 3, wait=10):
                effects = SettlementEffects(kv_writes={f"acked/{claim.id}": b""})
                await self.queue.ack(claim, effects)
                self.acked.add(claim.id)
                self.at_work.set()

    async def write(self, name: str) -> None:
        number = 0
        while True:
            number += 1
            await self.queue.kv_put(name, str(number).encode())
            self.kv[name] = str(number).encode()

    def start(self) -> list[asyncio.Task[None]]:
        jobs: list[Coroutine[Any, Any, None]] = [
            *(self.produce(seed) for seed in range(10)),
            *(self.work() for _ in range(10)),
            *(self.write(f"entry/{number}") for number in range(3)),
        ]
        return [asyncio.create_task(job) for job in jobs]

    def check(self, state: Dump) -> None:
        born = state.entries("born/").keys()
        acked = state.entries("acked/").keys()
        assert self.enqueued <= born
        assert self.acked <= acked
        # What was under way and not acknowledged is there whole or not at all.
        assert sorted([*state.jobs, *acked]) == sorted(born)
        assert state.counters["q"].done == len(acked)
        for name, value in self.kv.items():
            assert int(state.kv[name]) in (int(value), int(value) + 1)


async def all_fenced(tasks: list[asyncio.Task[Any]]) -> None:
    done, late = await asyncio.wait(tasks, timeout=SOON)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    assert not late, f"{[task.get_name() for task in late]} hang on a fenced queue"
    for task in done:
        assert isinstance(task.exception(), StoreFenced), task


@pytest.mark.parametrize("seed", range(4))
async def test_an_owner_at_full_speed_stops_when_it_is_fenced(url: str, seed: int) -> None:
    queue = await Queue.open(url, default_config=CONFIG)
    old = OldOwner(queue)
    tasks = old.start()
    await asyncio.wait_for(old.at_work.wait(), 30)
    await asyncio.sleep(random.Random(seed).uniform(0, 0.15))
    async with next_owner(url) as new:
        at_once = await dump(new)
        await all_fenced(tasks)
        assert old.acked
        state = await audit(new)
        # Nothing of the old owner landed after the new one had opened.
        assert state.rows == at_once.rows
        old.check(state)
        await asyncio.wait_for(queue.close(), SOON)
        await queue.close()
        # The new owner's store is whole, and works on.
        assert (await dump(new)).rows == at_once.rows
        await new.enqueue("q", b"more")
        assert await new.claim("q") is not None


async def test_closing_an_owner_that_was_fenced_unnoticed_raises_nothing(url: str) -> None:
    queue = await Queue.open(url)
    await queue.enqueue("q", b"x")
    assert await queue.claim("q") is not None
    async with next_owner(url) as new:
        await asyncio.wait_for(queue.close(), SOON)
        state = await audit(new)
        assert len(state.jobs) == 1


async def hold(job: JobRecord, lease: LeaseHandle) -> None:
    await asyncio.Event().wait()


async def quick(job: JobRecord, lease: LeaseHandle) -> None:
    pass


def waiting_calls(queue: Queue, job_id: str) -> dict[str, Awaitable[Any]]:
    """Every kind of call that waits, on queues of their own."""
    return {
        "claim": queue.claim("empty 1", wait=60),
        "claim_batch": queue.claim_batch("empty 2", 5, wait=60),
        "wait_for_jobs_on": queue.wait_for_jobs_on("empty 3", "empty 4", timeout=60),
        "wait_for_completion": queue.wait_for_completion(job_id, timeout=60),
        "idle worker": run_worker(queue, "empty 5", quick, poll_interval=60),
        "busy worker": run_worker(queue, "held 1", hold, poll_interval=60),
        "worker with room": run_worker(queue, "held 2", hold, concurrency=5, poll_interval=60),
        "several workers": run_workers(
            queue,
            WorkerSpec("empty 6", quick, poll_interval=60),
            WorkerSpec("held 3", hold, poll_interval=60),
            handle_signals=False,
        ),
    }


async def test_whoever_waits_on_an_idle_owner_is_told_of_the_fence(url: str) -> None:
    queue = await Queue.open(url)
    for number in range(1, 4):
        await queue.enqueue(f"held {number}", b"x")
    job = await queue.enqueue("q", b"x")
    waiting = [
        asyncio.create_task(told(call), name=kind)
        for kind, call in waiting_calls(queue, job.id).items()
    ]
    await asyncio.sleep(0.05)
    async with next_owner(url) as new:
        await all_fenced(waiting)
        await asyncio.wait_for(queue.close(), SOON)
        assert len((await audit(new)).jobs) == 4


async def told(call: Awaitable[Any]) -> None:
    await call


async def test_a_worker_at_work_ends_when_its_queue_is_fenced(url: str) -> None:
    queue = await Queue.open(url)
    worked = 0

    async def work(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal worked
        worked += 1

    async def produce() -> None:
        while True:
            await queue.enqueue("q", b"x")

    tasks: list[asyncio.Task[None]] = [
        asyncio.create_task(produce()),
        asyncio.create_task(run_worker(queue, "q", work, concurrency=5)),
    ]
    await asyncio.sleep(0.1)
    async with next_owner(url) as new:
        await all_fenced(tasks)
        assert worked
        await audit(new)
        await queue.close()


async def test_a_fenced_owner_refuses_every_further_write(url: str) -> None:
    queue = await Queue.open(url)
    await queue.enqueue("q", b"1")
    await queue.enqueue("q", b"2")
    claim = await queue.claim("q")
    assert claim is not None
    async with next_owner(url) as new:
        for _ in range(3):
            with pytest.raises(StoreFenced):
                await queue.enqueue("q", b"3")
            with pytest.raises(StoreFenced):
                await queue.ack(claim)
            with pytest.raises(StoreFenced):
                await queue.claim("q")
        assert len((await audit(new)).jobs) == 2
        await queue.close()


async def test_errors_of_a_fenced_owner_do_not_grow_with_every_call(url: str) -> None:
    queue = await Queue.open(url)
    async with next_owner(url):
        seen: list[StoreFenced] = []
        for _ in range(20):
            with pytest.raises(StoreFenced) as caught:
                await queue.enqueue("q", b"x")
            seen.append(caught.value)
        lengths = [len(list(traceback.walk_tb(error.__traceback__))) for error in seen]
        assert max(lengths) == max(lengths[:3])
        await queue.close()


async def test_a_claim_that_is_not_durable_is_undone_by_the_next_owner(url: str) -> None:
    queue = await Queue.open(url)
    job = await queue.enqueue("q", b"x")
    assert await queue.claim("q") is not None
    async with next_owner(url) as new:
        found = await new.claim("q")
        assert found is not None
        assert found.id == job.id
        await queue.close()


async def test_an_owner_process_at_full_speed_ends_when_it_is_fenced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ledger = Ledger()
    for number in range(3):
        log = tmp_path / f"log{number}"
        with ChildProcess(store, log, number, fsync=number == 1) as child:
            child.go()
            await child.first_report()
            await asyncio.sleep(0.1 * number + 0.05)
            async with next_owner(str(store)) as new:
                at_once = await dump(new)
                assert await child.ended(SOON + 1) == EXIT_FENCED
                reports = child.reports()
                assert reports[-1] == ["fenced"]
                state = await audit(new)
                assert state.rows == at_once.rows
        ledger.read(reports)
        ledger.check(state)
