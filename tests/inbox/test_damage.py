"""A batch that is not what its producer put there makes no job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taquba import EnqueueRequest, InboxConfig, Producer, Queue
from tests.inbox.support import inbox_at, names, put, rejected
from tests.payloads.support import DAMAGES
from tests.servers.faulty_s3 import FaultyS3

ASLEEP = InboxConfig(poll_interval=3600)

pytestmark = pytest.mark.allow_blocking("the tests themselves look at folders")


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    async with Queue.open(store, inbox=ASLEEP):
        pass
    return store


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_batch_is_put_aside(store: Path, damage: Callable[[bytes], bytes]) -> None:
    inbox = await inbox_at(store)
    name = await put(inbox, EnqueueRequest("q", b"x" * 100), EnqueueRequest("q", b"y"))
    good = await put(inbox, EnqueueRequest("q", b"good"))
    path = store.with_name("store-inbox") / "new" / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    async with Queue.open(store, inbox=ASLEEP) as queue:
        assert await queue.ingest_now() == 1
        assert "damaged" in (await rejected(inbox))[name]
    assert good not in await names(inbox)
    # It can be looked at.
    assert (path.parent.parent / "rejected" / name / "batch").read_bytes() == damaged


async def test_a_batch_in_which_any_bit_was_flipped_makes_no_job(store: Path) -> None:
    inbox = await inbox_at(store)
    folder = store.with_name("store-inbox") / "new"
    damaged: set[str] = set()
    position = 0
    while True:
        name = await put(inbox, EnqueueRequest("q", b"a payload"))
        data = bytearray((folder / name).read_bytes())
        if position >= 8 * len(data):
            break
        data[position // 8] ^= 1 << position % 8
        (folder / name).write_bytes(data)
        damaged.add(name)
        position += 7
    async with Queue.open(store, inbox=ASLEEP) as queue:
        assert await queue.ingest_now() == 1
        assert set(await rejected(inbox)) == damaged


async def test_a_batch_under_the_name_of_another_makes_no_job(store: Path) -> None:
    inbox = await inbox_at(store)
    one = await put(inbox, EnqueueRequest("q", b"one"))
    other = await put(inbox, EnqueueRequest("q", b"other"))
    folder = store.with_name("store-inbox") / "new"
    (folder / one).write_bytes((folder / other).read_bytes())
    async with Queue.open(store, inbox=ASLEEP) as queue:
        assert await queue.ingest_now() == 1
        assert set(await rejected(inbox)) == {one}


@pytest.mark.parametrize("times", [1, 2])
async def test_a_batch_that_a_transfer_has_damaged_is_taken_later(s3: FaultyS3, times: int) -> None:
    async with Queue.open("s3://bucket/prefix", inbox=ASLEEP):
        pass
    async with Producer.open("s3://bucket/prefix") as producer:
        receipt = await producer.enqueue("q", b"x")
    inbox = await inbox_at("s3://bucket/prefix")
    async with Queue.open("s3://bucket/prefix", inbox=ASLEEP) as queue:
        s3.short_reads = times
        await queue.ingest_now()
        await queue.ingest_now()
        assert await queue.get_job(receipt.id) is not None
    assert await rejected(inbox) == {}
