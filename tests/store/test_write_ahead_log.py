"""How much of its write-ahead log an owner leaves for the next one to read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from taquba import Queue
from taquba._engine import engine
from taquba._queue import loops
from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

MOST = 20
FLUSHES = 150


class Bucket(NamedTuple):
    """A new place for a store, behind a proxy that counts requests."""

    url: str
    proxy: FaultyProxy


@pytest.fixture
async def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    """Owners there look often at their log, and shorten it early."""
    monkeypatch.setattr(engine, "_MOST_WAL_OBJECTS", MOST)
    monkeypatch.setattr(loops, "_ENGINE_WATCH_SECONDS", 0.01)
    async with FaultyProxy(s3_server.endpoint) as proxy:
        for name, value in s3_server.environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield Bucket(f"{s3_server.root}/{uuid.uuid4().hex}", proxy)


async def test_the_next_owner_of_a_bucket_reads_few_write_ahead_objects(bucket: Bucket) -> None:
    first = await Queue.open(bucket.url)
    for number in range(FLUSHES):
        await first.kv_put("newest", b"%d" % number)
    await asyncio.sleep(0.2)
    await bucket.proxy.clear_counts()
    async with Queue.open(bucket.url) as second:
        read = (await bucket.proxy.counts()).of(method="GET", kind="wal").requests
        assert read < FLUSHES / 2
        assert await second.kv_get("newest") == b"%d" % (FLUSHES - 1)
    await first.close()


async def test_a_log_that_cannot_be_shortened_now_is_shortened_later(bucket: Bucket) -> None:
    async with Queue.open(bucket.url) as queue:
        await bucket.proxy.inject(Faults(hang=1, methods=("PUT",), kinds=("compacted",)))
        for number in range(3 * MOST):
            await queue.kv_put("newest", b"%d" % number)
        assert (await bucket.proxy.counts()).of(method="PUT", kind="compacted").struck
        await bucket.proxy.calm()
        async with asyncio.timeout(20):
            while queue._owner.engine._wal_objects >= MOST:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
