"""What an inbox holds: batches that wait, marks of those that were taken, and a rejected one."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from taquba import EnqueueRequest, InboxConfig, JobRecord, LeaseHandle, Producer, Queue, QueueReader
from taquba.testing import MockClock, drain
from tests.inbox.support import contents, inbox_at, marks

WINDOW = timedelta(hours=2)
INBOX = InboxConfig(poll_interval=timedelta(minutes=10), dedup_window=WINDOW)
"""A clock that is advanced by hours would stop at every look."""

BROKEN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
WHY = "it is not an array"
DELAY = timedelta(hours=2)


async def write(folder: Path, clock: MockClock) -> None:
    """Fill the inbox of a new store, and leave it without an owner."""
    async with Queue.open(folder, clock=clock, inbox=INBOX):
        pass
    inbox = await inbox_at(folder)
    async with Producer.open(folder, clock=clock) as producer:
        await producer.enqueue("sent", b"", job_id="taken")
        taken = await contents(inbox)
        await inbox.put(BROKEN, b"broken")
        async with Queue.open(folder, clock=clock, inbox=INBOX) as queue:
            assert await queue.ingest_now() == 1
            # Nothing but the marks tells of it now.
            await queue.cancel("taken")
        # What a producer sends again that did not hear of its success, and what a caller does.
        for name, data in taken.items():
            await inbox.put(name, data)
        await producer.enqueue("sent", b"", job_id="taken")
        await producer.enqueue(
            "sent", b"late", delay=DELAY, priority=5, max_attempts=7, headers={"h": "ü"}
        )
        await producer.enqueue_batch(
            [
                EnqueueRequest("sent", b"own", job_id="own", kv_writes={"sent": b"along"}),
                EnqueueRequest("sent", b"keyed", dedup_key="key"),
            ]
        )
    await inbox.close()


async def check_left(left: Queue | QueueReader) -> None:
    stats = await left.inbox_stats()
    assert (stats.waiting, stats.rejected) == (4, 1)
    await _check_rejected(left)


async def _check_rejected(left: Queue | QueueReader) -> None:
    (rejected,) = await left.rejected_batches()
    assert (rejected.name, rejected.size) == (BROKEN, len(b"broken"))
    assert rejected.reason.startswith(WHY)


async def check_taken(queue: Queue, sent_at: datetime) -> None:
    """Each request that waited is a job now, and none that was taken before."""
    await queue.ingest_now()
    stats = await queue.inbox_stats()
    assert (stats.waiting, stats.rejected) == (0, 1)
    await _check_rejected(queue)
    (late,) = (await queue.list_jobs("sent", "scheduled")).jobs
    assert (late.payload, late.run_at) == (b"late", sent_at + DELAY)
    assert (late.priority, late.max_attempts, dict(late.headers)) == (5, 7, {"h": "ü"})
    own, keyed = (await queue.list_jobs("sent", "pending")).jobs
    if own.payload != b"own":
        own, keyed = keyed, own
    assert (own.id, own.payload, keyed.payload, keyed.dedup_key) == ("own", b"own", b"keyed", "key")
    assert await queue.kv_get("sent") == b"along"


async def work_to_the_end(queue: Queue, clock: MockClock) -> None:
    """Do the jobs, and forget what was taken."""
    handled: list[bytes] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        handled.append(job.payload)

    assert await marks(queue) > 0
    await clock.advance(2 * WINDOW)
    await drain(queue, "sent", handle)
    assert sorted(handled) == [b"keyed", b"late", b"own"]
    assert await marks(queue) == 0
