"""The owner takes what is in the inbox into its queues, once, and puts aside what it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgpack
import pytest
from ulid import ULID

from taquba import (
    EnqueueRequest,
    InboxConfig,
    InvalidArgument,
    InvalidArgumentType,
    JobStatus,
    Producer,
    Queue,
    QueueConfig,
    QueueReader,
    StoreFenced,
)
from taquba._model.batch import MAX_BATCH_BYTES, encode_batch, encode_request
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.object_info import ObjectInfo
from taquba.testing import MockClock
from tests.inbox.support import contents, inbox_at, marks, names, put, rejected
from tests.payloads.support import payload_objects
from tests.queue.support import claimed_ids, leftovers, must_claim

DAY = 24 * 3600
NOW = datetime(2030, 1, 1, tzinfo=UTC)
CONFIG = QueueConfig(default_priority=77, max_attempts=5)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
async def clock() -> MockClock:
    return MockClock(NOW)


@pytest.fixture
async def queue(url: str, clock: MockClock) -> AsyncIterator[Queue]:
    async with Queue.open(url, inbox=True, clock=clock, default_config=CONFIG) as queue:
        yield queue


@pytest.fixture
async def inbox(url: str) -> InboxObjects:
    return await inbox_at(url)


@pytest.fixture
async def producer(url: str, queue: Queue, clock: MockClock) -> AsyncIterator[Producer]:
    async with Producer.open(url, clock=clock) as producer:
        yield producer


async def pending(queue: Queue) -> int:
    """How many jobs there are when all is taken. The loop may have taken some of them before."""
    await queue.ingest_now()
    return (await queue.stats("q")).pending


# -- what a job becomes -------------------------------------------------------------------------


async def test_a_job_is_as_its_producer_asked(
    producer: Producer, queue: Queue, inbox: InboxObjects
) -> None:
    receipt = await producer.enqueue(
        "q", b"\x00payload", priority=7, max_attempts=2, headers={"name": "ü"}
    )
    assert await pending(queue) == 1
    claim = await must_claim(queue)
    assert (claim.id, claim.payload, claim.headers) == (
        receipt.id,
        b"\x00payload",
        {"name": "ü"},
    )
    assert (claim.priority, claim.max_attempts) == (7, 2)
    assert await names(inbox) == []


async def test_the_owners_settings_decide_what_was_not_asked_for(
    producer: Producer, queue: Queue
) -> None:
    await producer.enqueue("q", b"")
    await queue.ingest_now()
    claim = await must_claim(queue)
    assert (claim.priority, claim.max_attempts) == (77, 5)


async def test_a_job_was_enqueued_when_its_producer_was_called(
    producer: Producer, queue: Queue, clock: MockClock, inbox: InboxObjects
) -> None:
    await producer.enqueue("q", b"")
    # The loop is not to take it before.
    batch = await contents(inbox)
    await inbox.remove(list(batch))
    await clock.advance(60)
    for name, data in batch.items():
        await inbox.put(name, data)
    await queue.ingest_now()
    assert (await must_claim(queue)).enqueued_at == NOW


async def test_a_producers_clock_that_is_ahead_enqueues_nothing_in_the_future(
    url: str, queue: Queue
) -> None:
    async with Producer.open(url, clock=MockClock(NOW + timedelta(days=1))) as ahead:
        await ahead.enqueue("q", b"")
    await queue.ingest_now()
    assert (await must_claim(queue)).enqueued_at == NOW


async def test_a_delay_counts_from_the_call(
    producer: Producer, queue: Queue, clock: MockClock
) -> None:
    receipt = await producer.enqueue("q", b"", delay=60)
    await queue.ingest_now()
    job = await queue.get_job(receipt.id)
    assert job is not None
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == NOW + timedelta(seconds=60)
    await clock.advance(60)
    assert await claimed_ids(queue) == [receipt.id]


async def test_jobs_come_in_the_order_of_their_ids(producer: Producer, queue: Queue) -> None:
    first = await producer.enqueue("q", b"")
    own = await queue.enqueue("q", b"")
    last = await producer.enqueue("q", b"")
    await queue.ingest_now()
    assert await claimed_ids(queue) == sorted([first.id, own.id, last.id])
    assert first.id < last.id


async def test_a_large_payload_becomes_an_object_of_its_own(
    producer: Producer, queue: Queue
) -> None:
    payload = bytes(1024 * 1024)
    await producer.enqueue_batch([EnqueueRequest("q", payload), EnqueueRequest("q", b"small")])
    await queue.ingest_now()
    assert len(await payload_objects(queue)) == 1
    assert (await must_claim(queue)).payload == payload
    assert (await must_claim(queue)).payload == b"small"


async def test_entries_are_written_with_their_job(producer: Producer, queue: Queue) -> None:
    await producer.enqueue_batch([EnqueueRequest("q", b"", kv_writes={"key": b"value"})])
    await queue.ingest_now()
    assert await queue.kv_get("key") == b"value"


async def test_a_dedup_key_goes_to_who_asked_first(producer: Producer, queue: Queue) -> None:
    held = await queue.enqueue("q", b"", dedup_key="key")
    await producer.enqueue("q", b"", dedup_key="key")
    free = await producer.enqueue("q", b"", dedup_key="other")
    await producer.enqueue("q", b"", dedup_key="other")
    assert await pending(queue) == 2
    assert set(await claimed_ids(queue)) == {held.id, free.id}


async def test_all_pages_of_a_long_inbox_are_taken(queue: Queue, inbox: InboxObjects) -> None:
    for _ in range(1100):
        await put(inbox, EnqueueRequest("q", b""))
    assert await pending(queue) == 1100
    assert await names(inbox) == []


# -- once ---------------------------------------------------------------------------------------


async def test_a_batch_that_is_sent_again_makes_no_second_job(
    producer: Producer, queue: Queue, inbox: InboxObjects, url: str, clock: MockClock
) -> None:
    receipts = await producer.enqueue_batch([EnqueueRequest("q", b"")] * 3)
    sent = await contents(inbox)
    assert await pending(queue) == 3
    assert await claimed_ids(queue) == [receipt.id for receipt in receipts]
    for name, data in sent.items():
        await inbox.put(name, data)
    assert await pending(queue) == 0
    assert await names(inbox) == []
    await queue.close()
    for name, data in sent.items():
        await inbox.put(name, data)
    async with Queue.open(url, inbox=True, clock=clock) as reopened:
        # Back from the claims of before.
        assert await pending(reopened) == 3


async def test_two_calls_with_a_key_are_one_job(
    producer: Producer, queue: Queue, url: str, clock: MockClock
) -> None:
    first, again = await asyncio.gather(
        producer.enqueue("q", b"1", idempotency_key="key"),
        producer.enqueue("q", b"2", idempotency_key="key"),
    )
    async with Producer.open(url, clock=clock) as other:
        third = await other.enqueue("q", b"3", idempotency_key="key")
    assert first == again == third
    assert await pending(queue) == 1
    claim = await must_claim(queue)
    assert claim.payload == b"1"
    await queue.ack(claim)
    # The job is gone, and its key is still known.
    await producer.enqueue("q", b"4", idempotency_key="key")
    assert await pending(queue) == 0
    assert await queue.claim("q") is None


async def test_an_id_of_a_job_that_the_owner_enqueued_makes_no_second_one(
    producer: Producer, queue: Queue
) -> None:
    await queue.enqueue("q", b"owner's", job_id="own")
    await producer.enqueue_batch([EnqueueRequest("q", b"", job_id="own"), EnqueueRequest("q", b"")])
    assert await pending(queue) == 2
    claim = await must_claim(queue)
    await queue.ack(claim)
    await queue.ack(await must_claim(queue))
    await producer.enqueue("q", b"", job_id="own")
    assert await pending(queue) == 0


async def test_a_request_that_its_dedup_key_refused_stays_refused(
    producer: Producer, queue: Queue
) -> None:
    await queue.enqueue("q", b"", dedup_key="key")
    await producer.enqueue("q", b"", dedup_key="key", idempotency_key="once")
    assert await pending(queue) == 1
    await queue.ack(await must_claim(queue))
    await producer.enqueue("q", b"", dedup_key="key", idempotency_key="once")
    assert await pending(queue) == 0


async def test_what_was_taken_is_forgotten_after_the_window(
    producer: Producer, queue: Queue, clock: MockClock
) -> None:
    await producer.enqueue("q", b"", idempotency_key="key")
    await queue.ingest_now()
    await queue.ack(await must_claim(queue))
    assert await marks(queue) == 4
    await clock.advance(DAY - 60)
    assert await marks(queue) == 4
    await producer.enqueue("q", b"", idempotency_key="key")
    assert await pending(queue) == 0
    await clock.advance(2 * 3600)
    # The window of a key begins with its first use.
    assert await marks(queue) == 2
    await producer.enqueue("q", b"", idempotency_key="key")
    assert await pending(queue) == 1
    await queue.ack(await must_claim(queue))
    await clock.advance(DAY + 3600)
    assert await leftovers(queue) == {}


async def test_an_owner_that_was_away_takes_what_lies_there_before_it_forgets(
    producer: Producer, queue: Queue, inbox: InboxObjects, url: str, clock: MockClock
) -> None:
    await producer.enqueue("q", b"")
    sent = await contents(inbox)
    assert await pending(queue) == 1
    await queue.close()
    # Its removal was lost, say by a power failure.
    for name, data in sent.items():
        await inbox.put(name, data)
    await clock.advance(30 * DAY)
    async with Queue.open(url, inbox=True, clock=clock) as reopened:
        await clock.advance(3600)
        assert (await reopened.stats("q")).pending == 1
        assert await names(inbox) == []
        assert await marks(reopened) == 0


async def test_a_fenced_owner_leaves_the_inbox_alone(
    producer: Producer, queue: Queue, inbox: InboxObjects, url: str, clock: MockClock
) -> None:
    async with Queue.open(url, clock=clock, take_over=True) as other:
        await producer.enqueue("q", b"")
        with pytest.raises(StoreFenced):
            await queue.ingest_now()
        assert len(await names(inbox)) == 1
        assert (await other.stats("q")).pending == 0
    async with Queue.open(url, clock=clock, inbox=True) as third:
        await third.ingest_now()
        assert (await third.stats("q")).pending == 1


async def test_closing_in_the_middle_loses_nothing(
    url: str, inbox: InboxObjects, clock: MockClock
) -> None:
    async with Queue.open(url, inbox=True, clock=clock) as queue:
        for _ in range(300):
            await put(inbox, EnqueueRequest("q", b""))
        taking = asyncio.ensure_future(queue.ingest_now())
        while not (await queue.stats("q")).pending and not taking.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.gather(taking, return_exceptions=True)
    async with Queue.open(url, inbox=True, clock=clock) as queue:
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == 300


# -- what cannot be taken -----------------------------------------------------------------------

GOOD = encode_request(EnqueueRequest("q", b""), "id-1", 0)


def batch_of(*rows: object) -> bytes:
    return encode_batch(0, [bytes(msgpack.packb(row)) for row in rows])


def row(**changes: object) -> list[object]:
    fields: dict[str, object] = {
        "queue": "q",
        "payload": b"",
        "job_id": "id-2",
        "own": False,
        "run_at": None,
        "priority": None,
        "max_attempts": None,
        "dedup_key": None,
        "headers": None,
        "kv_writes": None,
    }
    return list((fields | changes).values())


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not an array in MessagePack"),
    "zeros": (bytes(100), "not an array in MessagePack"),
    "text": (b"hello", "not an array in MessagePack"),
    "cut off": (encode_batch(0, [GOOD])[:-1], "not an array in MessagePack"),
    "something behind": (encode_batch(0, [GOOD]) + b"\x00", "not an array in MessagePack"),
    "deep": (b"\x91" * 5000, "not an array in MessagePack"),
    "foreign": (msgpack.packb(["another format", 1, 0, []]), "not a batch of taquba"),
    "newer": (msgpack.packb(["taquba batch", 2, {}]), "format.*2.*this owner reads 1"),
    "no requests": (encode_batch(0, []), "0 requests"),
    "no time": (msgpack.packb(["taquba batch", 1, "now", [row()]]), "'now' is not a time"),
    "no fields": (batch_of([]), "0 fields"),
    "a request that is none": (batch_of(row(), 5), "int instead of an array"),
    "queue name": (batch_of(row(), row(queue="", job_id="x")), "queue name must have 1 to"),
    "payload": (batch_of(row(payload="text")), "payload must be bytes"),
    "job id": (batch_of(row(job_id="a b")), "job id"),
    "no job id": (batch_of(row(job_id=None)), "no job id"),
    "priority": (batch_of(row(priority=2**32)), "priority"),
    "run_at": (batch_of(row(run_at=2**63)), "cannot be taken"),
    "run_at of text": (batch_of(row(run_at="soon")), "cannot be taken"),
    "headers": (batch_of(row(headers={"a": 1})), "headers"),
    "entries": (batch_of(row(kv_writes={b"": b""})), "a key must have 1 to"),
    "id twice": (batch_of(row(), row()), "'id-2' comes twice"),
    "id twice, once own": (batch_of(row(), row(own=True)), "twice"),
    "too large": (bytes(MAX_BATCH_BYTES + 1), "at most 16777216"),
}


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_batch_is_put_aside_with_its_reason(
    queue: Queue, inbox: InboxObjects, case: tuple[bytes, str], caplog: pytest.LogCaptureFixture
) -> None:
    data, message = case
    name = str(ULID())
    await put(inbox, EnqueueRequest("q", b"before"))
    await inbox.put(name, data)
    await put(inbox, EnqueueRequest("q", b"after"))
    with caplog.at_level(logging.WARNING):
        assert await pending(queue) == 2
    assert await names(inbox) == []
    reasons = await rejected(inbox)
    assert list(reasons) == [name]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reasons[name])
    assert name in caplog.text
    # All of it or nothing: also the good requests of a bad batch make no job.
    assert await pending(queue) == 2


@pytest.mark.parametrize("name", ["batch", "a/b", "x.json", "01ARYZ6S41", "a" * 26])
async def test_what_no_producer_put_there_is_put_aside(
    queue: Queue, inbox: InboxObjects, name: str
) -> None:
    await inbox.put(name, encode_batch(0, [GOOD]))
    assert await pending(queue) == 0
    assert await names(inbox) == []
    assert list(await rejected(inbox)) == [name]


async def test_a_batch_that_was_repaired_can_be_put_back(queue: Queue, inbox: InboxObjects) -> None:
    name = str(ULID())
    await inbox.put(name, b"broken")
    await queue.ingest_now()
    await inbox.put(name, encode_batch(0, [GOOD]))
    assert await pending(queue) == 1


async def test_what_is_in_the_inbox_can_be_seen_from_anywhere(
    url: str, queue: Queue, inbox: InboxObjects, clock: MockClock
) -> None:
    await inbox.put("b", b"broken")
    await inbox.put("a", b"broken, too")
    await queue.ingest_now()
    await queue.close()
    name = await put(inbox, EnqueueRequest("q", b""))
    data = await inbox.get(name)
    assert data is not None
    async with Queue.open(url, clock=clock) as owner, QueueReader.open(url) as reader:
        for looking in (owner, reader):
            stats = await looking.inbox_stats()
            assert (stats.waiting, stats.waiting_bytes, stats.rejected) == (1, len(data), 2)
            assert stats.oldest_at is not None
            found = await looking.rejected_batches()
            assert [(batch.name, batch.size) for batch in found] == [("a", 11), ("b", 6)]
            assert all("name" in batch.reason for batch in found)
            assert len(await looking.rejected_batches(limit=1)) == 1
            with pytest.raises(InvalidArgument, match="limit"):
                await looking.rejected_batches(limit=0)


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"poll_interval": 0}, InvalidArgument, "poll_interval.*0.001"),
        ({"idle_poll_interval": 0.1}, InvalidArgument, "idle_poll_interval.*not be shorter"),
        ({"dedup_window": 60}, InvalidArgument, "dedup_window.*600"),
        ({"dedup_window": "day"}, InvalidArgumentType, "'day'"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    settings: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        InboxConfig(**settings)  # type: ignore[arg-type]


async def test_an_inbox_that_nobody_could_reach_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="memory://name"):
        await Queue.open("memory://", inbox=True)
    with pytest.raises(InvalidArgumentType, match="inbox must be an InboxConfig"):
        await Queue.open("memory://name", inbox="yes")  # type: ignore[arg-type]


async def test_without_an_inbox_nothing_is_taken(
    url: str, queue: Queue, producer: Producer
) -> None:
    await producer.enqueue("q", b"")
    await queue.close()
    async with Queue.open(url) as other:
        assert await other.ingest_now() == 0
        assert await other.list_queues() == []


async def test_an_owner_that_stops_as_it_begins_to_read_leaves_nothing_behind(
    queue: Queue,
) -> None:
    inbox = queue._inbox
    assert inbox is not None
    batches = [ObjectInfo(str(ULID()), 100, NOW) for _ in range(3)]
    taking = asyncio.create_task(inbox._take_group(batches))
    # The reads are wanted now, and none of them has begun.
    await asyncio.sleep(0)
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await taking
    # Where a read was made and never awaited, Python says so here, and pytest fails.
    gc.collect()
