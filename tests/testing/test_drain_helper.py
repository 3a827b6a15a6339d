from __future__ import annotations

import asyncio

import pytest

from taquba import (
    EnqueueRequest,
    InvalidQueueName,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    QueueClosed,
    QueueConfig,
    SettlementEffects,
)
from taquba.testing import MockClock, drain
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, leftovers


async def test_drain_runs_what_is_due_in_claim_order(queue: Queue) -> None:
    seen: list[bytes] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        seen.append(job.payload)

    await queue.enqueue_batch(
        [EnqueueRequest("q", bytes([48 + n]), priority=5 - n % 2) for n in range(6)]
    )
    assert await drain(queue, "q", handle) == 6
    assert seen == [b"1", b"3", b"5", b"0", b"2", b"4"]
    assert await leftovers(queue) == {}
    assert await drain(queue, "q", handle) == 0


async def test_drain_runs_one_at_a_time(queue: Queue) -> None:
    running = 0

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        assert running == 1
        running -= 1

    await queue.enqueue_batch([EnqueueRequest("q", b"")] * 5)
    assert await drain(queue, "q", handle) == 5


async def test_drain_leaves_what_is_not_due(queue: Queue, mock_clock: MockClock) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None: ...

    await queue.enqueue("q", b"", delay=10)
    await queue.enqueue("other", b"")
    assert await drain(queue, "q", handle) == 0
    # Moves time past the job before the scheduler's own timer gets its turn.
    mock_clock._now += 10_000
    assert await drain(queue, "q", handle) == 1
    assert (await queue.stats("other")).pending == 1


async def test_drain_runs_what_the_handler_enqueues(queue: Queue) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        left = int(job.payload)
        if left == 3:
            await queue.enqueue("q", b"0")
        if left == 0:
            return None
        return SettlementEffects(enqueues=[EnqueueRequest("q", str(left - 1).encode())])

    await queue.enqueue("q", b"3")
    assert await drain(queue, "q", handle) == 5


async def test_drain_settles_failures_like_a_worker(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(queue_configs={"eager": QueueConfig(**NO_RETRY_WAIT)})

    async def fail(job: JobRecord, lease: LeaseHandle) -> None:
        if job.payload == b"hopeless":
            raise PermanentFailure("hopeless")
        raise ValueError("broken")

    # Without a backoff all attempts are due at once; otherwise one is.
    await queue.enqueue("eager", b"", job_id="eager")
    assert await drain(queue, "eager", fail) == 3
    await queue.enqueue("q", b"", job_id="patient")
    await queue.enqueue("q", b"hopeless", job_id="hopeless")
    assert await drain(queue, "q", fail) == 2
    for job_id, status, error in (
        ("eager", JobStatus.DEAD, "ValueError: broken"),
        ("patient", JobStatus.SCHEDULED, "ValueError: broken"),
        ("hopeless", JobStatus.DEAD, "hopeless"),
    ):
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.last_error) == (status, error)
    await mock_clock.advance(2)
    assert await drain(queue, "q", fail) == 1


async def test_drain_takes_every_form_of_handler(queue: Queue) -> None:
    class Plain:
        def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
            lease.ensure_at_least(60)
            return SettlementEffects(kv_writes={job.id: b"done"})

    job_id = (await queue.enqueue("q", b"")).id
    assert await drain(queue, "q", Plain()) == 1
    assert await queue.kv_get(job_id) == b"done"


async def test_a_handler_may_move_the_clock(queue: Queue, mock_clock: MockClock) -> None:
    """The lease is kept as a worker keeps it."""

    async def take_long(job: JobRecord, lease: LeaseHandle) -> None:
        await mock_clock.advance(3600)

    await queue.enqueue("q", b"")
    assert await drain(queue, "q", take_long) == 1
    assert (await queue.stats("q")).done == 1


async def test_drain_applies_a_timeout(queue: Queue, mock_clock: MockClock) -> None:
    async def hang(job: JobRecord, lease: LeaseHandle) -> None:
        await asyncio.gather(mock_clock.advance(10), asyncio.Event().wait())

    await queue.enqueue("q", b"", max_attempts=1, job_id="a")
    assert await drain(queue, "q", hang, timeout=5) == 1
    job = await queue.get_job("a")
    assert job is not None
    assert job.last_error == "TimeoutError: the handler ran longer than its timeout of 5 s"


async def test_drain_can_be_cancelled(queue: Queue) -> None:
    started = asyncio.Event()

    async def hang(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        await asyncio.Event().wait()

    await queue.enqueue("q", b"", job_id="a")
    draining = asyncio.create_task(drain(queue, "q", hang))
    await started.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    job = await queue.get_job("a")
    assert job is not None
    # Given back unspent, as a cancelled worker does.
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_drain_checks_its_arguments(open_queue: OpenQueue) -> None:
    queue = await open_queue()
    with pytest.raises(InvalidQueueName):
        await drain(queue, "", print)
    await queue.close()
    with pytest.raises(QueueClosed):
        await drain(queue, "q", print)
