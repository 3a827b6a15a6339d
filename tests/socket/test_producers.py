"""Producers on the machine of the owner: its socket where there is one, else the inbox."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taquba import (
    EnqueueRequest,
    InvalidArgument,
    JobStatus,
    OwnerUnreachable,
    Producer,
    ProducerClosed,
    Queue,
    QueueConfig,
    SyncProducer,
    WaitStatus,
)
from taquba._line.address import socket_path
from taquba._objects.location import StoreLocation
from taquba._producer import producer as producer_module
from tests.inbox.support import inbox_at, names
from tests.servers.stores import S3Server
from tests.socket.relay import relayed

SECONDS = 20
KEEPS = QueueConfig(keep_done_jobs=60)


def owner(
    url: str | Path, *, take_over: bool = False
) -> contextlib.AbstractAsyncContextManager[Queue]:
    return Queue.open(
        url, inbox=True, producer_socket=True, default_config=KEEPS, take_over=take_over
    )


@pytest.fixture(params=["folder", "long path", "S3"])
def url(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    if request.param == "S3":
        for name, value in s3_server.environment(s3_server.endpoint).items():
            monkeypatch.setenv(name, value)
        return f"{s3_server.root}{tmp_path}"
    return str(tmp_path / ("store" if request.param == "folder" else "x" * 100))


async def waiting(url: str | Path) -> int:
    """Batches in the inbox."""
    return len(await names(await inbox_at(url)))


async def until_claimed(queue: Queue, *job_ids: str) -> None:
    """Each of the jobs comes once, and no other."""
    left = set(job_ids)
    while left:
        claim = await queue.claim("q", wait=SECONDS)
        assert claim is not None, "a job was lost"
        left.remove(claim.id)
        await queue.ack(claim)


async def test_the_socket_takes_what_is_enqueued(url: str) -> None:
    async with owner(url) as queue, Producer.open(url) as producer:
        receipt = await producer.enqueue("q", b"hello", headers={"a": "b"}, priority=5)
        # At once, without the inbox.
        job = await queue.get_job(receipt.id)
        assert job is not None
        assert (job.payload, job.headers, job.priority) == (b"hello", {"a": "b"}, 5)
        requests = [EnqueueRequest("q", b"", job_id="own"), EnqueueRequest("r", b"", delay=60)]
        for one in await producer.enqueue_batch(requests):
            assert await queue.get_job(one.id) is not None
        assert await waiting(url) == 0


async def test_what_the_owner_acknowledged_is_there_after_it(url: str) -> None:
    async with owner(url), Producer.open(url) as producer:
        receipts = await asyncio.gather(*(producer.enqueue("q", b"") for _ in range(50)))
    async with owner(url) as queue:
        await until_claimed(queue, *(receipt.id for receipt in receipts))


async def test_the_owner_can_be_asked(url: str) -> None:
    async with owner(url) as queue, Producer.open(url) as producer:
        receipt = await producer.enqueue("q", b"hello")
        assert await producer.get_job("unknown") is None
        assert await producer.get_job(receipt.id) == await queue.get_job(receipt.id)
        assert await producer.stats("q") == await queue.stats("q")
        assert (await producer.wait_for_completion("unknown", 1)).status is WaitStatus.NOT_FOUND
        assert (await producer.wait_for_completion(receipt.id, 0.01)).timed_out
        waits = asyncio.create_task(producer.wait_for_completion(receipt.id, SECONDS))
        await until_claimed(queue, receipt.id)
        outcome = await waits
        assert outcome.completed
        assert outcome.job is not None
        assert outcome.job.status is JobStatus.DONE
        assert (outcome.job.payload, outcome.job.attempts) == (b"hello", 1)


async def test_the_successor_answers_what_an_owner_was_asked_that_has_gone(
    short_path: Path,
) -> None:
    store = short_path / "store"
    async with owner(store) as first:
        job = await first.enqueue("q", b"")
    successors = contextlib.AsyncExitStack()

    async def go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await successors.enter_async_context(owner(store))
        writer.close()

    path = await asyncio.to_thread(socket_path, StoreLocation.parse(store))
    async with successors, await asyncio.start_unix_server(go, path), Producer.open(store) as one:
        record = await one.get_job(job.id)
        assert record is not None
        assert record.id == job.id


async def test_one_waits_with_one_owner_after_the_other(tmp_path: Path) -> None:
    async with owner(tmp_path), Producer.open(tmp_path) as producer:
        receipt = await producer.enqueue("q", b"")
        waits = asyncio.create_task(producer.wait_for_completion(receipt.id, SECONDS))
        await asyncio.wait([waits], timeout=0.1)
        async with owner(tmp_path, take_over=True) as successor:
            await until_claimed(successor, receipt.id)
            assert (await waits).completed
            # And what is enqueued reaches it.
            receipt = await producer.enqueue("q", b"")
            assert await successor.get_job(receipt.id) is not None


async def test_without_an_owner_the_inbox_takes_it_and_nobody_answers(tmp_path: Path) -> None:
    async with owner(tmp_path):
        pass
    async with Producer.open(tmp_path) as producer:
        receipt = await producer.enqueue("q", b"")
        assert await waiting(tmp_path) == 1
        for question in (
            producer.get_job(receipt.id),
            producer.stats("q"),
            producer.wait_for_completion(receipt.id, SECONDS),
        ):
            with pytest.raises(OwnerUnreachable, match=r"no owner.*QueueReader"):
                await question
        async with owner(tmp_path) as queue:
            await until_claimed(queue, receipt.id)
            # The same producer has found the owner.
            receipt = await producer.enqueue("q", b"")
            assert await queue.get_job(receipt.id) is not None


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    async with owner(tmp_path) as queue:
        yield queue


@pytest.mark.parametrize("ends_first", [False, True], ids=["waiting", "done"])
async def test_a_lost_reply_makes_no_second_job(
    queue: Queue, tmp_path: Path, ends_first: bool
) -> None:
    async with (
        relayed(socket_path(StoreLocation.parse(tmp_path))) as relay,
        Producer.open(tmp_path) as producer,
    ):
        relay.loses_replies = True
        enqueuing = asyncio.create_task(producer.enqueue("q", b"", dedup_key="k"))
        if ends_first:
            claim = await queue.claim("q", wait=SECONDS)
            assert claim is not None
            await queue.ack(claim)
        receipt = await enqueuing
        assert relay.requests == 1
        relay.loses_replies = False
        last = await producer.enqueue("q", b"")
        async with asyncio.timeout(SECONDS):
            while await waiting(tmp_path):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        await until_claimed(queue, *([] if ends_first else [receipt.id]), last.id)
        assert (await queue.stats("q")).done == 2
        assert (await queue.stats("q")).pending == 0


async def test_an_owner_that_does_not_answer_is_passed_over(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "PATIENCE_SECONDS", 0.2)
    async with (
        relayed(socket_path(StoreLocation.parse(tmp_path))) as relay,
        Producer.open(tmp_path) as producer,
    ):
        relay.is_silent = True
        receipts = [await producer.enqueue("q", b"") for _ in range(3)]
        # It was asked once, and not again for a while.
        assert relay.requests == 1
        await until_claimed(queue, *(receipt.id for receipt in receipts))


async def test_plain_threads_use_it_too(queue: Queue, tmp_path: Path) -> None:
    def use() -> str:
        with SyncProducer.open(tmp_path) as producer:
            receipt = producer.enqueue("q", b"hello")
            job = producer.get_job(receipt.id)
            assert job is not None
            assert job.payload == b"hello"
            stats = producer.stats("q")
            assert stats.pending + stats.claimed == 1
            assert producer.wait_for_completion(receipt.id, SECONDS).completed
            return receipt.id

    using = asyncio.create_task(asyncio.to_thread(use))
    claim = await queue.claim("q", wait=SECONDS)
    assert claim is not None
    async with asyncio.timeout(SECONDS):
        while not queue._owner.completions:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    await queue.ack(claim)
    assert await using == claim.id


async def test_a_program_that_forgets_to_close_leaves_nothing_open(
    queue: Queue, tmp_path: Path
) -> None:
    program = (
        "import sys; from taquba import SyncProducer;"
        "producer = SyncProducer.open(sys.argv[1]); print(producer.stats('q').pending)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", program, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert await process.communicate() == (b"0\n", b"")
    assert process.returncode == 0


async def test_bad_input_is_refused_before_it_is_sent(queue: Queue, tmp_path: Path) -> None:
    async with Producer.open(tmp_path) as producer:
        with pytest.raises(InvalidArgument, match="not an id"):
            await producer.get_job("not an id")
        with pytest.raises(InvalidArgument, match="queue name"):
            await producer.stats("")
        with pytest.raises(InvalidArgument, match=r"timeout.*-1"):
            await producer.wait_for_completion("id", -1)
    for question in (
        producer.get_job("id"),
        producer.stats("q"),
        producer.wait_for_completion("id", 1),
    ):
        with pytest.raises(ProducerClosed):
            await question


def test_a_store_in_memory_has_no_socket() -> None:
    with pytest.raises(InvalidArgument, match="producer_socket"):
        Queue.open("memory://", producer_socket=True)


async def test_where_no_socket_can_be_made_the_owner_works_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread((tmp_path / "producer.sock").mkdir)
    async with owner(tmp_path) as queue, Producer.open(tmp_path) as producer:
        assert "use its inbox" in caplog.text
        receipt = await producer.enqueue("q", b"")
        await until_claimed(queue, receipt.id)
