"""Damaged records of jobs and odd keys: listed as such, removable, and no hindrance to others."""

from __future__ import annotations

import msgpack
import pytest

from taquba import (
    CancelOutcome,
    JobStatus,
    Queue,
    QueueConfig,
    QueueReader,
    StoreError,
)
from taquba._model import keys
from taquba._store.transaction import Transaction
from taquba.testing import MockClock, OpenQueue
from tests.queue.support import fresh_url

LATER = [None, None, False, None, None, None, False, None, None, 0, None]
DAMAGED = [
    b"",
    b"\xc1",
    b"\x07",
    b"\x91\x01",
    # Arrays as long as a record's, with a field of another type.
    msgpack.packb([7, None, 1000, 0, 3, 0]),
    msgpack.packb([b"", None, 1000, 0, 3, "none"]),
    msgpack.packb([b"", {"a": 1}, 1000, 0, 3, 0]),
    msgpack.packb([b"", None, 1000, 0, 3, 0, *LATER, 5]),
    msgpack.packb([b"", None, 1000, 0, 3, 0, *LATER, ["many", 0, False]]),
]


async def damage(queue: Queue, key: bytes, value: bytes) -> None:
    """Write a row over another one, behind the queue's back."""
    transaction = Transaction()
    transaction.ops.append((key, value))
    await queue._owner.committer.submit(transaction, durable=True)


async def ids(queue: Queue | QueueReader, status: JobStatus) -> tuple[list[str], list[str]]:
    """What a listing gives a job at a time: ids of readable and of unreadable ones."""
    found: list[str] = []
    unreadable: list[str] = []
    cursor = None
    while True:
        page = await queue.list_jobs("q", status, cursor, 1)
        found += [job.id for job in page.jobs]
        unreadable += [record.name for record in page.unreadable]
        for record in page.unreadable:
            assert record.key == record.name.encode()
            assert "cannot be read" in record.reason
            assert "cancel()" in record.reason
        cursor = page.next_cursor
        if cursor is None:
            return found, unreadable


@pytest.mark.parametrize("row", DAMAGED, ids=repr)
async def test_a_pending_job_that_cannot_be_read_hinders_no_other(
    open_queue: OpenQueue, row: bytes
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    for job_id in "abc":
        await queue.enqueue("q", b"", job_id=job_id)
    priority = queue.config("q").default_priority
    await damage(queue, keys.pending("q", priority, "b"), row)
    await queue.close()
    queue = await open_queue(url)
    assert await ids(queue, JobStatus.PENDING) == (["a", "c"], ["b"])
    async with QueueReader.open(url) as reader:
        assert await ids(reader, JobStatus.PENDING) == (["a", "c"], ["b"])
    assert [claim.id for claim in await queue.claim_batch("q", 10)] == ["a", "c"]
    with pytest.raises(StoreError, match="record of job 'b' of queue 'q' cannot be read"):
        await queue.get_job("b")
    assert await queue.cancel("b") is CancelOutcome.REMOVED
    assert await ids(queue, JobStatus.PENDING) == ([], [])
    stats = await queue.stats("q")
    assert (stats.pending, stats.claimed) == (0, 2)


async def test_a_scheduled_job_that_cannot_be_read_hinders_no_other(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    for job_id in "abc":
        await queue.enqueue("q", b"", job_id=job_id, delay=10)
    (job,) = [job for job in (await queue.list_jobs("q", "scheduled")).jobs if job.id == "b"]
    assert job.run_at is not None
    at = round(job.run_at.timestamp() * 1000)
    await damage(queue, keys.scheduled(at, "q", "b"), b"\xc1")
    await queue.close()
    queue = await open_queue(url)
    assert await ids(queue, JobStatus.SCHEDULED) == (["a", "c"], ["b"])
    await mock_clock.advance(11)
    assert await ids(queue, JobStatus.PENDING) == (["a", "c"], [])
    with pytest.raises(StoreError, match="'b'"):
        await queue.wake_scheduled("b")
    assert await queue.cancel("b") is CancelOutcome.REMOVED
    assert (await queue.stats("q")).scheduled == 0


async def test_a_claimed_job_that_cannot_be_read_does_not_keep_the_store_from_opening(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    for job_id in "ab":
        await queue.enqueue("q", b"", job_id=job_id)
    first = await queue.claim("q")
    second = await queue.claim("q")
    assert first is not None
    assert second is not None
    await damage(queue, keys.claimed("q", "b"), b"\xc1")
    await queue.close()
    queue = await open_queue(url)
    assert await ids(queue, JobStatus.CLAIMED) == ([], ["b"])
    assert await queue.cancel("b") is CancelOutcome.REMOVED
    assert await ids(queue, JobStatus.CLAIMED) == ([], [])
    stats = await queue.stats("q")
    assert (stats.pending, stats.claimed) == (1, 0)


async def test_a_dead_letter_that_cannot_be_read_is_listed_and_purged(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1, dead_retention=60))
    for job_id in "abc":
        await queue.enqueue("q", b"", job_id=job_id)
        claim = await queue.claim("q")
        assert claim is not None
        await queue.nack(claim, "no")
    (job,) = [job for job in (await queue.dead_jobs("q")).jobs if job.id == "a"]
    assert job.failed_at is not None
    at = round(job.failed_at.timestamp() * 1000)
    await damage(queue, keys.finished(keys.DEAD, "q", at, "a"), b"\xc1")
    assert await ids(queue, JobStatus.DEAD) == (["b", "c"], ["a"])
    with pytest.raises(StoreError, match="'a'"):
        await queue.requeue_dead("a")
    # Retention goes on past it.
    await mock_clock.advance(120)
    assert await ids(queue, JobStatus.DEAD) == ([], ["a"])
    await queue.purge_dead("a")
    assert await ids(queue, JobStatus.DEAD) == ([], [])
    assert (await queue.stats("q")).dead == 0


async def test_a_key_that_is_no_text_is_listed_beside_the_others(queue: Queue) -> None:
    for key in (b"a", b"\xff", b"\xff\x01", b"b"):
        await queue.kv_put(key, b"v")
    page = await queue.kv_scan("")
    assert [entry.key for entry in page.entries] == ["a", "b"]
    assert [record.key for record in page.unreadable] == [b"\xff", b"\xff\x01"]
    assert "scan with a bytes prefix, or delete it" in page.unreadable[0].reason
    for record in page.unreadable:
        await queue.kv_delete(record.key)
    assert not (await queue.kv_scan("")).unreadable
    assert len((await queue.kv_scan(b"")).entries) == 2


@pytest.mark.parametrize(
    "row", [b"", b"\xc1", b"\x07", b"\x95\x01\x01\x01\x01\xa1x", b"\x91\xff"], ids=repr
)
async def test_counters_that_cannot_be_read_are_named(open_queue: OpenQueue, row: bytes) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.enqueue("q", b"")
    await damage(queue, keys.stats("q"), row)
    await queue.close()
    with pytest.raises(StoreError, match="counters of queue 'q' cannot be read") as caught:
        await open_queue(url)
    assert caught.value.permanent


@pytest.mark.parametrize(
    "row", [b"", b"\xc1", b"\x07", b"\x93\x00\xa1q\xa1x", b"\x93\x00\x01\x01", b"\x93\x07\xa1q\x01"]
)
async def test_an_index_that_cannot_be_read_is_named(queue: Queue, row: bytes) -> None:
    await queue.enqueue("q", b"", job_id="a")
    await damage(queue, keys.index("a"), row)
    for call in (queue.get_job, queue.cancel, queue.wake_scheduled):
        with pytest.raises(StoreError, match="where job 'a' is") as caught:
            await call("a")
        assert caught.value.permanent
