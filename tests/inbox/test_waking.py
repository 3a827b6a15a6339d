"""How soon an owner looks: at once when told, else more and more rarely."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taquba import EnqueueRequest, InboxConfig, Producer, Queue
from taquba._objects.location import StoreLocation
from taquba._objects.wake import WakeHint, WakeListener
from taquba.testing import MockClock
from tests.inbox.support import inbox_at, opened_inbox, put
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

NEVER_BY_ITSELF = InboxConfig(poll_interval=3600)
WAIT = 20
"""Seconds, on a machine that has much else to do."""


@pytest.mark.parametrize("kind", ["memory", "folder"])
async def test_an_owner_on_the_same_machine_takes_at_once_what_comes(
    tmp_path: Path, kind: str
) -> None:
    url = f"memory://{tmp_path}" if kind == "memory" else str(tmp_path / "store")
    async with (
        Queue.open(url, inbox=NEVER_BY_ITSELF) as queue,
        Producer.open(url) as producer,
    ):
        for _ in range(3):
            receipt = await producer.enqueue("q", b"")
            claim = await queue.claim("q", wait=WAIT)
            assert claim is not None
            assert claim.id == receipt.id


async def test_the_next_owner_hears_though_the_last_one_was_fenced(tmp_path: Path) -> None:
    first = await Queue.open(tmp_path / "store", inbox=NEVER_BY_ITSELF)
    async with (
        Queue.open(tmp_path / "store", inbox=NEVER_BY_ITSELF, take_over=True) as second,
        Producer.open(tmp_path / "store") as producer,
    ):
        await producer.enqueue("q", b"")
        assert await second.claim("q", wait=WAIT) is not None
        await first.close()
        await producer.enqueue("q", b"")
        assert await second.claim("q", wait=WAIT) is not None


async def test_an_owner_looks_by_itself_where_nobody_can_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    config = InboxConfig(poll_interval=0.01)
    async with (
        Queue.open(tmp_path / "store", inbox=config) as queue,
        Producer.open(tmp_path / "store") as producer,
    ):
        await producer.enqueue("q", b"")
        assert await queue.claim("q", wait=WAIT) is not None


@pytest.mark.allow_blocking("the test itself looks at the folder")
async def test_the_place_to_listen_is_this_users_alone_and_is_tidied_up(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    location = StoreLocation.parse("s3://bucket/prefix")
    heard = asyncio.Event()
    listener = WakeListener(location, heard.set)
    await listener.listen()
    folder = short_path / f"taquba-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    assert len(os.listdir(folder)) == 1
    hint = await WakeHint.open(location)
    hint.send()
    await asyncio.wait_for(heard.wait(), WAIT)
    await listener.close()
    assert os.listdir(folder) == []
    # Nobody listens any more, and nobody minds.
    hint.send()
    hint.close()
    folder.chmod(0o777)
    unheard = WakeListener(location, heard.set)
    await unheard.listen()
    assert os.listdir(folder) == []
    await unheard.close()


# -- what looking costs -------------------------------------------------------------------------


@pytest.fixture
async def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyProxy]:
    """It counts the requests to the store of `url`."""
    async with FaultyProxy(s3_server.endpoint) as proxy:
        for name, value in s3_server.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def url(s3_server: S3Server, proxy: FaultyProxy, tmp_path: Path) -> str:
    return f"{s3_server.root}/{tmp_path.name}"


async def test_an_idle_inbox_on_a_bucket_is_looked_at_every_five_seconds(
    proxy: FaultyProxy, url: str
) -> None:
    clock = MockClock()
    async with Queue.open(url, inbox=True, clock=clock):
        await clock.advance(60)
        await proxy.clear_counts()
        await clock.advance(60)
        assert 11 <= (await proxy.counts()).of(method="LIST", kind="inbox").requests <= 13


async def test_looks_become_rarer_and_rarer_until_something_comes(
    proxy: FaultyProxy, url: str
) -> None:
    clock = MockClock()

    async def looks(seconds: float) -> int:
        await proxy.clear_counts()
        await clock.advance(seconds)
        return (await proxy.counts()).of(method="LIST", kind="inbox").requests

    async with Queue.open(url, inbox=True, clock=clock) as queue:
        inbox = await inbox_at(url)
        await clock.advance(0)
        for pause in (0.4, 0.8, 1.6, 3.2, 5, 5):
            assert await looks(pause - 0.01) == 0
            assert await looks(0.01) == 1
        # As from other machines, whose hints do not arrive here.
        await put(inbox, EnqueueRequest("q", b""))
        await clock.advance(5)
        for taken in range(1, 6):
            assert (await queue.stats("q")).pending == taken
            await put(inbox, EnqueueRequest("q", b""))
            await clock.advance(0.2)
        assert await looks(5) == 4


async def test_calls_that_share_a_batch_share_its_write_and_its_read(
    proxy: FaultyProxy, url: str
) -> None:
    await opened_inbox(url)
    async with Producer.open(url) as producer:
        await proxy.clear_counts()
        await asyncio.gather(*(producer.enqueue("q", b"") for _ in range(100)))
        assert (await proxy.counts()).of().requests == 1
    async with Queue.open(url, inbox=NEVER_BY_ITSELF, clock=MockClock()) as queue:
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == 100
        counts = await proxy.counts()
        found = {
            method: counts.of(method=method, kind="inbox").requests for method in ("PUT", "GET")
        }
    # The sign is there, and is read once.
    assert found == {"PUT": 1, "GET": 2}
