"""`until_empty`: work off what may run now, and return."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taquba import (
    EnqueueRequest,
    InboxConfig,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Producer,
    Queue,
    QueueConfig,
    RetryAfter,
    SettlementEffects,
    Snooze,
    StoreError,
    TaqubaError,
    WorkerSpec,
    run_worker,
    run_workers,
)
from taquba.testing import MockClock, drain
from tests.inbox.support import inbox_at, put
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, fresh_url, must_claim
from tests.queue.test_suspects import crashed
from tests.worker.support import REAL_SECONDS, Gate, add_jobs


class Record:
    """A handler that keeps the payloads of its jobs."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def __call__(self, job: JobRecord, lease: LeaseHandle) -> None:
        self.seen.append(job.payload)


async def succeed(job: JobRecord, lease: LeaseHandle) -> None:
    pass


async def work_off(queue: Queue, handler: Any, **options: Any) -> None:
    async with asyncio.timeout(REAL_SECONDS):
        await run_worker(queue, "q", handler, until_empty=True, **options)


async def left(queue: Queue, name: str = "q") -> tuple[int, int, int]:
    stats = await queue.stats(name)
    return stats.pending, stats.scheduled, stats.claimed


class Looks:
    """Counts the looks at the inbox, and can hold them when they have seen it."""

    def __init__(self, queue: Queue) -> None:
        self.count = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()
        self._take = queue._owner.take_inbox
        queue._owner.take_inbox = self

    async def __call__(self) -> int:
        self.count += 1
        found = 0 if self._take is None else await self._take()
        self.begun.set()
        await self.go_on.wait()
        return found


# -- what is worked off, and what is left ---------------------------------------------------------


async def test_an_empty_queue(queue: Queue) -> None:
    await work_off(queue, succeed)
    assert queue._owner.queue("q").loops == 0


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_what_is_pending_and_what_handlers_enqueue(queue: Queue, concurrency: int) -> None:
    seen: list[int] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        number = int(job.payload)
        seen.append(number)
        if number < 10:
            await queue.enqueue("q", str(number + 10).encode())
        if number < 30:
            return SettlementEffects(enqueues=[EnqueueRequest("q", str(number + 20).encode())])
        return None

    await add_jobs(queue, 5)
    await work_off(queue, handle, concurrency=concurrency)
    assert sorted(seen) == [tens + ones for tens in range(0, 50, 10) for ones in range(5)]
    assert await left(queue) == (0, 0, 0)


async def test_retries_that_are_due_at_once(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))
    attempts: list[int] = []

    async def fail_twice(job: JobRecord, lease: LeaseHandle) -> None:
        attempts.append(job.attempts)
        if job.attempts == 1:
            raise RuntimeError("once")
        if job.attempts == 2:
            raise RetryAfter(0)

    await add_jobs(queue, 1)
    await work_off(queue, fail_twice)
    assert attempts == [1, 2, 3]
    assert (await queue.stats("q")).done == 1


async def test_dead_letters_do_not_keep_it(open_queue: OpenQueue) -> None:
    queue = await open_queue(default_config=QueueConfig(**NO_RETRY_WAIT))

    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        raise RuntimeError

    await add_jobs(queue, 2, max_attempts=3)
    await work_off(queue, fail)
    assert (await queue.stats("q")).dead == 2


@pytest.mark.parametrize("error", [RuntimeError("later"), Snooze(10), RetryAfter(10)], ids=repr)
async def test_what_waits_for_its_time_is_left(queue: Queue, error: Exception) -> None:
    runs = 0

    async def put_off(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal runs
        runs += 1
        raise error

    await add_jobs(queue, 1)
    await work_off(queue, put_off)
    assert (runs, await left(queue)) == (1, (0, 1, 0))


async def test_scheduled_jobs_that_are_due(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    url = fresh_url()
    async with await open_queue(url) as queue:
        await add_jobs(queue, 2, delay=10)
        await add_jobs(queue, 1, delay=11)
    await mock_clock.advance(10)
    # The scheduler of this owner has not run yet.
    record = Record()
    queue = await open_queue(url)
    await work_off(queue, record)
    assert record.seen == [b"0", b"1"]
    assert await left(queue) == (0, 1, 0)


@pytest.mark.parametrize("turns", range(12))
async def test_scheduled_jobs_that_the_scheduler_is_moving(
    open_queue: OpenQueue, mock_clock: MockClock, turns: int
) -> None:
    async def open_with_due_job() -> Queue:
        url = fresh_url()
        async with await open_queue(url) as queue:
            await add_jobs(queue, 1, delay=10)
        await mock_clock.advance(10)
        queue = await open_queue(url)
        for _ in range(turns):
            await asyncio.sleep(0)
        return queue

    record = Record()
    await work_off(await open_with_due_job(), record)
    assert record.seen == [b"0"]
    assert await drain(await open_with_due_job(), "q", succeed) == 1


async def test_scheduled_jobs_that_come_due_while_it_works(
    queue: Queue, mock_clock: MockClock
) -> None:
    gate = Gate()
    (first,) = await add_jobs(queue, 1)
    (second,) = await add_jobs(queue, 1, delay=10)
    (third,) = await add_jobs(queue, 1, delay=60)
    working = asyncio.create_task(work_off(queue, gate))
    await gate.starts(1)
    await mock_clock.advance(20)
    gate.open.set()
    await working
    assert gate.started == [first, second]
    job = await queue.get_job(third)
    assert job is not None
    assert job.status is JobStatus.SCHEDULED


async def test_a_deep_backlog_of_a_reopened_store(open_queue: OpenQueue) -> None:
    """More jobs than the window in memory takes in one look."""
    url = fresh_url()
    async with await open_queue(url) as queue:
        await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5_000)
    queue = await open_queue(url)
    await work_off(queue, succeed, concurrency=500)
    stats = await queue.stats("q")
    assert (stats.pending, stats.claimed, stats.done) == (0, 0, 5_000)


async def test_jobs_that_others_hold_are_not_waited_for(queue: Queue) -> None:
    first, second = await add_jobs(queue, 2)
    claim = await must_claim(queue)
    assert claim.id == first
    gate = Gate()
    gate.open.set()
    await work_off(queue, gate)
    assert gate.started == [second]
    assert await left(queue) == (0, 0, 1)
    await queue.ack(claim)


async def test_a_loop_beside_it_may_run_its_jobs(queue: Queue) -> None:
    gate, stop = Gate(), asyncio.Event()
    staying = asyncio.create_task(run_worker(queue, "q", gate, shutdown=stop))
    await add_jobs(queue, 2)
    await gate.starts(1)
    leaving = asyncio.create_task(work_off(queue, gate, poll_interval=0.01))
    await gate.starts(2)
    gate.open.set()
    await leaving
    assert await left(queue) == (0, 0, 0)
    await add_jobs(queue, 1)
    await gate.starts(3)
    stop.set()
    await staying


# -- suspects -------------------------------------------------------------------------------------


async def test_suspects_and_what_is_behind_them(open_queue: OpenQueue) -> None:
    queue, ids = await crashed(open_queue, 3, 3)
    gate = Gate()
    working = asyncio.create_task(work_off(queue, gate, concurrency=10))
    await gate.starts(1)
    assert gate.started == ids[:1]
    gate.open.set()
    await working
    assert gate.started == ids
    assert await left(queue) == (0, 0, 0)


async def test_a_suspect_that_must_wait_for_others_is_waited_for(open_queue: OpenQueue) -> None:
    queue, _ = await crashed(open_queue, 1)
    await queue.enqueue("other", b"")
    claim = await must_claim(queue, "other")
    record = Record()
    working = asyncio.create_task(work_off(queue, record))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not working.done()
    await queue.ack(claim)
    await working
    assert record.seen == [b""]


async def test_a_suspect_in_its_backoff_is_left(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    config = QueueConfig(retry_jitter=0)
    first = await open_queue(url, default_config=config)
    await first.enqueue("q", b"", max_attempts=5)
    for _ in range(2):
        await must_claim(first)
        await first.kv_delete("nothing")  # makes the claim durable
        first = await open_queue(url, default_config=config, take_over=True)
    record = Record()
    await work_off(first, record)
    assert (record.seen, await left(first)) == ([], (0, 1, 0))
    await mock_clock.advance(3600)
    await work_off(first, record)
    assert record.seen == [b""]


# -- the inbox ------------------------------------------------------------------------------------


async def test_batches_that_arrived_before_the_start(open_queue: OpenQueue) -> None:
    url = fresh_url()
    async with await open_queue(url, inbox=True):
        pass
    async with Producer.open(url) as producer:
        await producer.enqueue("q", b"hello")
        await producer.enqueue("q", b"again")
    queue = await open_queue(url, inbox=True)
    record = Record()
    await work_off(queue, record)
    assert record.seen == [b"hello", b"again"]


async def test_it_looks_at_the_inbox_before_it_ends(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """Nobody tells the owner of these batches, and its own next look is far away."""
    url = fresh_url()
    queue = await open_queue(url, inbox=InboxConfig(poll_interval=600, idle_poll_interval=600))
    await mock_clock.advance(0)
    inbox = await inbox_at(url)
    seen: list[bytes] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.payload)
        if len(seen) < 4:
            await put(inbox, EnqueueRequest("q", str(len(seen)).encode()))

    await put(inbox, EnqueueRequest("q", b"0"), EnqueueRequest("other", b""))
    await work_off(queue, handle)
    assert seen == [b"0", b"1", b"2", b"3"]
    assert await left(queue, "other") == (1, 0, 0)
    await inbox.close()


async def test_a_job_that_runs_during_the_last_look_makes_another_one_necessary(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url, inbox=InboxConfig(poll_interval=600, idle_poll_interval=600))
    await mock_clock.advance(0)
    looks = Looks(queue)
    looks.go_on.clear()
    inbox = await inbox_at(url)
    seen: list[bytes] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.payload)
        if job.payload == b"first":
            await put(inbox, EnqueueRequest("q", b"second"))

    working = asyncio.create_task(work_off(queue, handle))
    await looks.begun.wait()
    first = await queue.enqueue("q", b"first")
    await queue.wait_for_completion(first.id, 10)
    assert seen == [b"first"]
    looks.go_on.set()
    await working
    assert seen == [b"first", b"second"]
    assert looks.count == 3
    await inbox.close()


async def test_it_looks_only_when_nothing_else_is_left(queue: Queue) -> None:
    looks, gate = Looks(queue), Gate()
    await add_jobs(queue, 1)
    working = asyncio.create_task(work_off(queue, gate, poll_interval=0.001))
    await gate.starts(1)
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert looks.count == 0
    looks.go_on.clear()
    gate.open.set()
    await looks.begun.wait()
    for _ in range(20):
        await asyncio.sleep(0.002)
    looks.go_on.set()
    await working
    # Looking again and again at the queue, as it does when nothing wakes it, costs no other look.
    assert looks.count == 1


# -- the look fails -------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
async def test_a_look_that_fails_ends_it_with_the_error(queue: Queue, several: bool) -> None:
    async def fail() -> int:
        raise StoreError("the inbox cannot be listed")

    queue._owner.take_inbox = fail
    await add_jobs(queue, 1)
    specs = (WorkerSpec("q", succeed), WorkerSpec("r", succeed))
    with pytest.raises(StoreError, match="cannot be listed"):
        await run_workers(queue, *specs[: 1 + several], until_empty=True)
    assert (await queue.stats("q")).done == 1


async def test_a_look_that_is_cancelled_from_outside(queue: Queue) -> None:
    looks = Looks(queue)
    looks.go_on.clear()
    working = asyncio.create_task(work_off(queue, succeed))
    await looks.begun.wait()
    (look,) = [task for task in asyncio.all_tasks() if task.get_name() == "taquba-last-look"]
    look.cancel()
    with pytest.raises(TaqubaError, match="'taquba-last-look' was cancelled from outside"):
        await working


# -- several queues -------------------------------------------------------------------------------


async def test_queues_that_feed_each_other(queue: Queue) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def pass_on(to: str) -> Callable[[JobRecord, LeaseHandle], Awaitable[SettlementEffects | None]]:
        async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
            number = int(job.payload)
            seen[job.queue].append(number)
            # The other loop has nothing to do meanwhile, and must not take that for the end.
            for _ in range(30):
                await asyncio.sleep(0)
            following = EnqueueRequest(to, str(number + 1).encode())
            return SettlementEffects(enqueues=[following]) if number < 9 else None

        return handle

    await queue.enqueue("a", b"0")
    async with asyncio.timeout(REAL_SECONDS):
        await run_workers(
            queue,
            WorkerSpec("a", pass_on("b")),
            WorkerSpec("b", pass_on("a"), concurrency=2),
            until_empty=True,
        )
    assert seen == {"a": [0, 2, 4, 6, 8], "b": [1, 3, 5, 7, 9]}


async def test_several_loops_of_one_queue(queue: Queue) -> None:
    gate = Gate()
    await add_jobs(queue, 6)
    specs = [WorkerSpec("q", gate, concurrency=2)] * 2
    working = asyncio.create_task(run_workers(queue, *specs, until_empty=True))
    await gate.starts(4)
    gate.open.set()
    async with asyncio.timeout(REAL_SECONDS):
        await working
    assert len(gate.started) == 6
    assert await left(queue) == (0, 0, 0)


async def test_after_the_end_nothing_is_claimed(queue: Queue) -> None:
    """A job that arrives when the end was decided is left, not claimed and interrupted."""
    for turns in range(30):
        record = Record()
        specs = (WorkerSpec("q", record), WorkerSpec("r", record))
        working = asyncio.create_task(run_workers(queue, *specs, until_empty=True, drain_timeout=0))
        for _ in range(turns):
            await asyncio.sleep(0)
        (job_id,) = await add_jobs(queue, 1)
        async with asyncio.timeout(REAL_SECONDS):
            await working
        if record.seen:
            assert await left(queue) == (0, 0, 0)
        else:
            assert await queue.attempt_history(job_id) == []
            await queue.cancel(job_id)


# -- other ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
async def test_a_shutdown_ends_it_before(queue: Queue, several: bool) -> None:
    gate, shutdown = Gate(), asyncio.Event()
    first, _ = await add_jobs(queue, 2)
    if several:
        specs = (WorkerSpec("q", gate), WorkerSpec("r", succeed))
        running = run_workers(queue, *specs, shutdown=shutdown, until_empty=True)
    else:
        running = run_worker(queue, "q", gate, shutdown=shutdown, until_empty=True)
    working = asyncio.create_task(running)
    await gate.starts(1)
    shutdown.set()
    gate.open.set()
    async with asyncio.timeout(REAL_SECONDS):
        await working
    assert gate.started == [first]
    assert await left(queue) == (1, 0, 0)


async def test_the_drain_timeout_holds_as_before(queue: Queue, mock_clock: MockClock) -> None:
    gate, shutdown = Gate(), asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    working = asyncio.create_task(work_off(queue, gate, shutdown=shutdown, drain_timeout=10))
    await gate.starts(1)
    shutdown.set()
    await mock_clock.advance(10)
    await working
    assert gate.cancelled == [job_id]
    assert await left(queue) == (1, 0, 0)


async def test_a_shutdown_does_not_wait_for_the_last_look(queue: Queue) -> None:
    looks, shutdown = Looks(queue), asyncio.Event()
    looks.go_on.clear()
    working = asyncio.create_task(work_off(queue, succeed, shutdown=shutdown))
    await looks.begun.wait()
    shutdown.set()
    await working
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if "look" in task.get_name()] == []


async def test_cancelling_it(queue: Queue) -> None:
    looks = Looks(queue)
    looks.go_on.clear()
    working = asyncio.create_task(work_off(queue, succeed))
    await looks.begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if "look" in task.get_name()] == []


async def test_a_signal_ends_it_before(queue: Queue) -> None:
    gate = Gate()
    first, _ = await add_jobs(queue, 2)
    working = asyncio.create_task(run_workers(queue, WorkerSpec("q", gate), until_empty=True))
    await gate.starts(1)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(5):
        await asyncio.sleep(0)
    gate.open.set()
    async with asyncio.timeout(REAL_SECONDS):
        await working
    assert gate.started == [first]


async def test_a_loop_that_fails_ends_the_others(queue: Queue) -> None:
    gate = Gate()
    await add_jobs(queue, 1)
    working = asyncio.create_task(
        run_workers(queue, WorkerSpec("q", gate), WorkerSpec("r", succeed), until_empty=True)
    )
    await gate.starts(1)
    closing = asyncio.create_task(queue.close())
    with pytest.raises(TaqubaError):
        async with asyncio.timeout(REAL_SECONDS):
            await working
    await closing
