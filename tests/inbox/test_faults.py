"""A network that loses requests and replies between the inbox and either side of it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from taquba import InboxConfig, Producer, Queue, QueueConfig, StoreError
from tests.inbox.support import inbox_at, names
from tests.queue.support import must_claim
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

ASLEEP = InboxConfig(poll_interval=3600)
KEEP = QueueConfig(keep_done_jobs=3600)


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(s3_server.endpoint, seed=1) as proxy:
        yield proxy


@contextlib.contextmanager
def reached_at(server: S3Server, endpoint: str) -> Iterator[None]:
    """What is opened now talks to this endpoint for good."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(endpoint).items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def url(s3_server: S3Server) -> str:
    return f"{s3_server.root}/{uuid.uuid4().hex}"


async def open_owner(server: S3Server, endpoint: str, url: str) -> Queue:
    with reached_at(server, endpoint):
        return await Queue.open(url, inbox=ASLEEP, default_config=KEEP)


async def open_producer(server: S3Server, endpoint: str, url: str) -> Producer:
    with reached_at(server, endpoint):
        return await Producer.open(url)


@pytest.mark.parametrize(
    "faults",
    [Faults(lose_reply=1, limit=3), Faults(fail_reply=1, limit=3), Faults(refuse=1, limit=3)],
    ids=["reply lost", "answered 500", "answered 503"],
)
async def test_a_producer_goes_on_until_it_knows(
    s3_server: S3Server, proxy: FaultyProxy, url: str, faults: Faults
) -> None:
    async with (
        await open_owner(s3_server, s3_server.endpoint, url) as queue,
        await open_producer(s3_server, proxy.endpoint, url) as producer,
    ):
        await proxy.inject(faults)
        receipt = await producer.enqueue("q", b"")
        assert (await proxy.counts()).of(kind="inbox").struck == 3
        await queue.ingest_now()
        assert (await must_claim(queue)).id == receipt.id
        assert await queue.claim("q") is None


async def test_a_write_that_is_repeated_after_the_first_was_taken_makes_no_second_job(
    s3_server: S3Server, proxy: FaultyProxy, url: str
) -> None:
    async with (
        await open_owner(s3_server, s3_server.endpoint, url) as queue,
        await open_producer(s3_server, proxy.endpoint, url) as producer,
    ):
        await proxy.inject(Faults(hang_reply=1, limit=1, methods=("PUT",)))
        enqueueing = asyncio.ensure_future(producer.enqueue("q", b""))
        claim = None
        async with asyncio.timeout(30):
            while claim is None:
                await queue.ingest_now()
                claim = await queue.claim("q", wait=0.05)
        await queue.ack(claim)
        with reached_at(s3_server, s3_server.endpoint):
            inbox = await inbox_at(url)
        assert await names(inbox) == []
        assert not enqueueing.done()
        # The connection breaks, and the producer tries again.
        await proxy.calm()
        receipt = await enqueueing
        assert claim.id == receipt.id
        assert len(await names(inbox)) == 1
        await queue.ingest_now()
        assert await names(inbox) == []
        assert await queue.claim("q") is None


@pytest.mark.parametrize("method", ["LIST", "GET", "POST"])
async def test_an_owner_whose_requests_fail_takes_all_once_when_they_work(
    s3_server: S3Server, proxy: FaultyProxy, url: str, method: str
) -> None:
    async with (
        await open_owner(s3_server, proxy.endpoint, url) as queue,
        await open_producer(s3_server, s3_server.endpoint, url) as producer,
    ):
        ids = {(await producer.enqueue("q", b"")).id for _ in range(3)}
        # Longer than the client repeats a request by itself.
        await proxy.inject(Faults(refuse=1, methods=(method,), kinds=("inbox", "other")))
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(3):
                await queue.ingest_now()
        await proxy.calm()
        async with asyncio.timeout(30):
            await queue.ingest_now()
        assert {(await must_claim(queue)).id for _ in range(3)} == ids
        assert await queue.claim("q") is None
        with reached_at(s3_server, s3_server.endpoint):
            assert await names(await inbox_at(url)) == []
