"""Plain handlers that wait for a place in their executor: they have not begun."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taquba import JobRecord, JobStatus, LeaseHandle, Queue, run_worker
from taquba.testing import MockClock
from taquba_jobs import JobContext, JobRunner, job
from tests.worker.support import REAL_SECONDS, add_jobs, finish, working


class Held:
    """A plain handler that tells of its start and waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.started: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def __call__(self, job: JobRecord, lease: object = None) -> None:
        self.started.append(job.payload)
        self._loop.call_soon_threadsafe(self._changed.set)
        assert self.may_end.wait(20)

    async def starts(self, count: int) -> None:
        async with asyncio.timeout(REAL_SECONDS):
            while len(self.started) < count:
                self._changed.clear()
                await self._changed.wait()


async def test_the_timeout_of_a_handler_begins_with_it(queue: Queue, mock_clock: MockClock) -> None:
    held = Held()
    ids = await add_jobs(queue, 3, max_attempts=1)
    with ThreadPoolExecutor(1) as one:
        async with working(queue, held, concurrency=3, timeout=60, executor=one):
            await held.starts(1)
            await mock_clock.advance(59)
            assert (await queue.stats("q")).claimed == 3
            await mock_clock.advance(1)
            # The first has had its time; its thread cannot be stopped, so the others still wait.
            (dead,) = await finish(queue, ids[0])
            assert dead is not None
            assert dead.last_error is not None
            assert "longer than its timeout of 60 s" in dead.last_error
            await mock_clock.advance(600)
            assert (await queue.stats("q")).claimed == 2
            held.may_end.set()
            assert await finish(queue, *ids[1:]) == [None, None]
    assert held.started == [b"0", b"1", b"2"]


async def test_one_that_has_begun_after_a_wait_gets_its_whole_timeout(
    queue: Queue, mock_clock: MockClock
) -> None:
    first, second = Held(), Held()

    def handle(job: JobRecord, lease: LeaseHandle) -> None:
        (first if job.payload == b"0" else second)(job)

    ids = await add_jobs(queue, 2, max_attempts=1)
    with ThreadPoolExecutor(1) as one:
        async with working(queue, handle, concurrency=2, timeout=60, executor=one):
            await first.starts(1)
            await mock_clock.advance(50)
            first.may_end.set()
            await second.starts(1)
            await mock_clock.advance(59)
            assert (await queue.stats("q")).claimed == 1
            await mock_clock.advance(1)
            (dead,) = await finish(queue, ids[1])
            second.may_end.set()
    assert dead is not None
    assert dead.last_error is not None
    assert "timeout" in dead.last_error


async def test_one_that_has_not_begun_goes_back_at_shutdown(queue: Queue) -> None:
    held, shutdown = Held(), asyncio.Event()
    ids = await add_jobs(queue, 4, max_attempts=1)
    with ThreadPoolExecutor(1) as one:
        task = asyncio.create_task(
            run_worker(queue, "q", held, concurrency=4, executor=one, shutdown=shutdown)
        )
        await held.starts(1)
        shutdown.set()
        back = await queue.claim_batch("q", 3, wait=10)
        assert not task.done()
        assert len(back) == 3
        held.may_end.set()
        await task
    assert await queue.get_job(ids[0]) is None
    assert [(claim.id, claim.attempts) for claim in back] == [(job_id, 1) for job_id in ids[1:]]
    assert held.started == [b"0"]


async def test_one_that_its_executor_drops_spends_no_attempt(queue: Queue) -> None:
    held = Held()
    first, second = await add_jobs(queue, 2, max_attempts=1)
    one = ThreadPoolExecutor(1)
    shutdown = asyncio.Event()
    task = asyncio.create_task(
        run_worker(queue, "q", held, concurrency=2, executor=one, shutdown=shutdown)
    )
    await held.starts(1)
    shutdown.set()
    one.shutdown(wait=False, cancel_futures=True)
    held.may_end.set()
    async with asyncio.timeout(REAL_SECONDS):
        await task
    assert await queue.get_job(first) is None
    job = await queue.get_job(second)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_an_executor_smaller_than_the_concurrency_is_warned_about(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as two:
        async with working(queue, lambda job, lease: None, concurrency=2, executor=two):
            await finish(queue, *await add_jobs(queue, 4))
        assert caplog.messages == []
        async with working(queue, lambda job, lease: None, concurrency=8, executor=two):
            await finish(queue, *await add_jobs(queue, 4))
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "concurrency is 8, but the executor runs 2 at a time"
    ]


async def test_the_timeout_of_a_typed_job_begins_with_its_function(
    queue: Queue, mock_clock: MockClock
) -> None:
    started: asyncio.Queue[int] = asyncio.Queue()
    may_end = threading.Event()
    loop = asyncio.get_running_loop()

    @job(name="slow", timeout=60, max_attempts=1)
    def slow(ctx: JobContext, number: int) -> int:
        loop.call_soon_threadsafe(started.put_nowait, number)
        assert may_end.wait(20)
        return number

    with ThreadPoolExecutor(1) as one:
        async with JobRunner(queue, jobs=[slow], executor=one, concurrency=2) as runner:
            handles = [await runner.submit(slow, number) for number in range(2)]
            await started.get()
            await mock_clock.advance(600)
            may_end.set()
            results: list[Any] = await asyncio.gather(*handles, return_exceptions=True)
    assert "timeout" in str(results[0])
    assert results[1] == 1
