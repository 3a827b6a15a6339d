"""A producer puts requests into the inbox, durably, packed, and checked before."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import (
    DuplicateJobId,
    EnqueueRequest,
    ForkedError,
    InboxNotOpen,
    IncompatibleStore,
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    InvalidQueueName,
    Producer,
    ProducerClosed,
    StoreError,
    SyncProducer,
    TaqubaError,
    WrongEventLoop,
)
from taquba._model.batch import MAX_BATCH_BYTES, MAX_BATCH_JOBS
from taquba._model.validate import KvKey
from taquba._objects.inbox_objects import InboxObjects
from taquba.testing import MockClock
from tests.inbox.support import inbox_at, names, opened_inbox, waiting
from tests.servers.stores import S3Server

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
async def inbox(url: str) -> InboxObjects:
    return await opened_inbox(url)


@pytest.fixture
async def producer(url: str, inbox: InboxObjects) -> AsyncIterator[Producer]:
    async with Producer.open(url, clock=MockClock(NOW)) as producer:
        yield producer


def test_importing_a_producer_loads_no_storage_engine() -> None:
    program = (
        "import sys; from taquba.producer import Producer; from taquba import SyncProducer;"
        "assert not [name for name in sys.modules if 'slatedb' in name], 'the engine is loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_using_a_producer_loads_no_storage_engine(tmp_path: Path) -> None:
    await opened_inbox(tmp_path / "store")
    program = (
        "import asyncio, sys\n"
        "from taquba import Producer, SyncProducer\n"
        "async def main():\n"
        "    async with Producer.open(sys.argv[1]) as producer:\n"
        "        await producer.enqueue('q', b'')\n"
        "asyncio.run(main())\n"
        "with SyncProducer.open(sys.argv[1]) as producer:\n"
        "    producer.enqueue('q', b'')\n"
        "assert not [name for name in sys.modules if 'slatedb' in name], 'the engine is loaded'\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "store"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    assert len(await names(await inbox_at(tmp_path / "store"))) == 2


# -- what is written ----------------------------------------------------------------------------


async def test_a_request_is_one_object_with_all_that_was_asked_for(
    producer: Producer, inbox: InboxObjects
) -> None:
    receipt = await producer.enqueue(
        "q",
        b"\x00payload",
        delay=5,
        priority=7,
        max_attempts=2,
        dedup_key="key",
        headers={"name": "ü"},
    )
    (batch,) = await waiting(inbox)
    assert batch.sent_at == NOW.timestamp() * 1000
    assert batch.own_ids == frozenset()
    assert batch.requests == [
        EnqueueRequest(
            "q",
            b"\x00payload",
            run_at=NOW + timedelta(seconds=5),
            priority=7,
            max_attempts=2,
            dedup_key="key",
            headers={"name": "ü"},
            job_id=receipt.id,
        )
    ]


async def test_what_is_not_given_is_left_to_the_owner(
    producer: Producer, inbox: InboxObjects
) -> None:
    receipt = await producer.enqueue("q", b"")
    (batch,) = await waiting(inbox)
    assert batch.requests == [EnqueueRequest("q", b"", job_id=receipt.id)]


async def test_a_batch_is_one_object_in_its_order(producer: Producer, inbox: InboxObjects) -> None:
    writes: dict[KvKey, bytes] = {"key": b"value", b"\xff": b""}
    requests = [
        EnqueueRequest("a", b"1", kv_writes=writes),
        EnqueueRequest("b", b"2", run_at=NOW - timedelta(days=1)),
        EnqueueRequest("a", b"3", job_id="own"),
    ]
    receipts = await producer.enqueue_batch(requests)
    (batch,) = await waiting(inbox)
    assert [request.payload for request in batch.requests] == [b"1", b"2", b"3"]
    assert [request.job_id for request in batch.requests] == [receipt.id for receipt in receipts]
    assert batch.requests[0].kv_writes == {b"key": b"value", b"\xff": b""}
    assert batch.requests[1].run_at is None
    assert batch.own_ids == {"own"}
    assert receipts[0].id < receipts[1].id


async def test_an_empty_batch_writes_nothing(producer: Producer, inbox: InboxObjects) -> None:
    assert await producer.enqueue_batch([]) == []
    assert await names(inbox) == []


async def test_calls_at_the_same_time_share_an_object(
    producer: Producer, inbox: InboxObjects
) -> None:
    receipts = await asyncio.gather(*(producer.enqueue("q", b"%d" % n) for n in range(100)))
    batches = await waiting(inbox)
    assert len(batches) == 1
    assert [request.job_id for request in batches[0].requests] == [r.id for r in receipts]


async def test_a_full_batch_leaves_room_to_the_next(
    producer: Producer, inbox: InboxObjects
) -> None:
    await asyncio.gather(*(producer.enqueue("q", b"x" * 2000) for _ in range(1200)))
    sizes = [len(batch.requests) for batch in await waiting(inbox)]
    assert sum(sizes) == 1200
    assert all(size * 2000 <= 1024 * 1024 for size in sizes)
    assert len(sizes) == 3


async def test_an_idempotency_key_is_the_same_job_for_everybody(
    url: str, producer: Producer
) -> None:
    first = await producer.enqueue("q", b"1", idempotency_key="order 17 ü")
    async with Producer.open(url) as other:
        assert await other.enqueue("q", b"1", idempotency_key="order 17 ü") == first
        assert await other.enqueue("r", b"1", idempotency_key="order 17 ü") != first
        assert await other.enqueue("q", b"1", idempotency_key="order 18") != first


async def test_what_a_cancelled_call_asked_for_is_sent(
    producer: Producer, inbox: InboxObjects
) -> None:
    call = asyncio.ensure_future(producer.enqueue("q", b"x"))
    await asyncio.sleep(0)
    call.cancel()
    await producer.close()
    assert call.cancelled()
    (batch,) = await waiting(inbox)
    assert [request.payload for request in batch.requests] == [b"x"]


# -- what is refused ----------------------------------------------------------------------------

Call = Callable[[Producer], Awaitable[object]]
REFUSED: dict[str, tuple[Call, type[TaqubaError], str]] = {
    "queue name": (lambda p: p.enqueue("", b""), InvalidQueueName, "''"),
    "queue name with key": (
        lambda p: p.enqueue("a\n", b"", idempotency_key="k"),
        InvalidQueueName,
        r"'a\\n'",
    ),
    "payload": (lambda p: p.enqueue("q", "text"), InvalidArgumentType, "str: encode it"),  # type: ignore[arg-type]
    "priority": (lambda p: p.enqueue("q", b"", priority=-1), InvalidArgument, "priority.*-1"),
    "two starts": (lambda p: p.enqueue("q", b"", run_at=NOW, delay=1), InvalidArgument, "not both"),
    "job id": (lambda p: p.enqueue("q", b"", job_id="a b"), InvalidJobId, "'a b'"),
    "two ids": (
        lambda p: p.enqueue("q", b"", job_id="a", idempotency_key="b"),
        InvalidArgument,
        "not both",
    ),
    "empty key": (
        lambda p: p.enqueue("q", b"", idempotency_key=""),
        InvalidArgument,
        "idempotency_key must have 1 to",
    ),
    "too large": (
        lambda p: p.enqueue("q", b"x" * MAX_BATCH_BYTES),
        InvalidArgument,
        "at most 16 MiB.*objects",
    ),
    "batch too large": (
        lambda p: p.enqueue_batch([EnqueueRequest("q", b"x" * (MAX_BATCH_BYTES // 8))] * 8),
        InvalidArgument,
        "at most 16 MiB",
    ),
    "too many": (
        lambda p: p.enqueue_batch([EnqueueRequest("q", b"")] * (MAX_BATCH_JOBS + 1)),
        InvalidArgument,
        "at most 10000.*10001",
    ),
    "id twice": (
        lambda p: p.enqueue_batch([EnqueueRequest("q", b"", job_id="a")] * 2),
        DuplicateJobId,
        "'a'",
    ),
    "no request": (lambda p: p.enqueue_batch(["q"]), InvalidArgumentType, "EnqueueRequest"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_a_bad_request_is_refused_before_anything_is_written(
    producer: Producer, inbox: InboxObjects, case: tuple[Call, type[TaqubaError], str]
) -> None:
    call, kind, message = case
    with pytest.raises(kind, match=message) as error:
        await call(producer)
    assert error.value.permanent
    assert await names(inbox) == []


async def test_the_largest_batches_are_fine(producer: Producer, inbox: InboxObjects) -> None:
    await producer.enqueue("q", b"x" * (MAX_BATCH_BYTES - 200))
    await producer.enqueue_batch([EnqueueRequest("q", b"")] * MAX_BATCH_JOBS)
    assert [len(batch.requests) for batch in await waiting(inbox)] == [1, MAX_BATCH_JOBS]


@pytest.mark.allow_blocking("the test itself looks at the folder")
async def test_a_place_without_an_inbox_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InboxNotOpen, match=r"inbox=True.*correct the URL") as error:
        await Producer.open(tmp_path / "typo")
    assert not error.value.permanent
    assert os.listdir(tmp_path) == []


async def test_a_store_in_memory_needs_a_name() -> None:
    with pytest.raises(InvalidArgument, match="memory://name"):
        await Producer.open("memory://")


async def test_an_owner_of_another_version_is_named(url: str, inbox: InboxObjects) -> None:
    await inbox._space.put("inbox.json", b'{"format": "taquba inbox", "batches": 99}')
    with pytest.raises(IncompatibleStore, match=r"format 99.*same version"):
        await Producer.open(url)


async def test_missing_credentials_are_told_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(StoreError, match=r"credentials.*AWS_ACCESS_KEY_ID"):
        await Producer.open("s3://bucket/prefix")


async def test_a_bucket_that_is_not_there_is_told_at_opening(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment(s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="no bucket"):
        await Producer.open("s3://nowhere/prefix")


# -- where and when it may be used --------------------------------------------------------------


async def test_a_closed_producer_refuses(producer: Producer, inbox: InboxObjects) -> None:
    await producer.close()
    await producer.close()
    with pytest.raises(ProducerClosed):
        await producer.enqueue("q", b"")
    assert await names(inbox) == []


async def test_a_producer_belongs_to_its_event_loop(producer: Producer) -> None:
    def elsewhere() -> None:
        with pytest.raises(WrongEventLoop, match="a producer belongs"):
            asyncio.run(producer.enqueue("q", b""))

    await asyncio.to_thread(elsewhere)


def test_threads_share_a_producer(url: str) -> None:
    inbox = asyncio.run(opened_inbox(url))
    ids: list[str] = []
    with SyncProducer.open(url) as producer:
        together = threading.Barrier(8)

        def enqueue() -> None:
            together.wait()
            ids.extend(producer.enqueue("q", b"").id for _ in range(20))
            ids.extend(r.id for r in producer.enqueue_batch([EnqueueRequest("q", b"")] * 2))

        threads = [threading.Thread(target=enqueue) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [request.job_id for batch in asyncio.run(waiting(inbox)) for request in batch.requests]
    assert len(found) == 8 * 22
    assert sorted(ids) == sorted(str(job_id) for job_id in found)


def test_closing_leaves_no_thread_behind(url: str) -> None:
    asyncio.run(opened_inbox(url))
    for _ in range(20):
        producer = SyncProducer.open(url)
        ended: list[str] = []
        started = threading.Barrier(5)

        def enqueue(
            producer: SyncProducer = producer,
            ended: list[str] = ended,
            started: threading.Barrier = started,
        ) -> None:
            started.wait()
            try:
                while True:
                    producer.enqueue("q", b"")
            except ProducerClosed:
                ended.append("closed")

        threads = [threading.Thread(target=enqueue, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
        producer.close()
        for thread in threads:
            thread.join(20)
        assert ended == ["closed"] * 4


def test_a_closed_or_forked_producer_for_threads_refuses(url: str) -> None:
    asyncio.run(opened_inbox(url))
    with SyncProducer.open(url) as producer:
        with pytest.raises(InvalidQueueName):
            producer.enqueue("", b"")
        with warnings.catch_warnings():
            # From Python 3.12 on, about forking a process that has threads: what is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                producer.enqueue("q", b"")
            except ForkedError as error:
                os._exit(7 if "producer" in str(error) else 1)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
    producer.close()
    with pytest.raises(ProducerClosed):
        producer.enqueue("q", b"")


@pytest.mark.parametrize("forgotten", ["", "del producer"], ids=["kept", "dropped"])
def test_a_program_that_forgets_to_close_ends_all_the_same(tmp_path: Path, forgotten: str) -> None:
    asyncio.run(opened_inbox(tmp_path / "store"))
    program = (
        "import sys; from taquba import SyncProducer;"
        f"producer = SyncProducer.open(sys.argv[1]); producer.enqueue('q', b''); {forgotten}"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path / "store"],
        stderr=subprocess.PIPE,
        timeout=20,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
