"""Caller-owned objects beside the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue, QueueClosed, QueueReader
from taquba.testing import MockClock
from tests.queue.support import OpenQueue, fresh_url


@pytest.fixture(params=["memory", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh_url() if request.param == "memory" else str(tmp_path / "store")


@pytest.fixture
async def queue(url: str) -> AsyncIterator[Queue]:
    async with Queue.open(url) as queue:
        yield queue


async def keys(queue: Queue | QueueReader, prefix: str = "") -> list[str]:
    return sorted([info.key async for info in queue.objects.list(prefix)])


async def test_an_object_is_written_read_replaced_and_removed(queue: Queue) -> None:
    assert await queue.objects.get("a/b") is None
    for content in (b"one", b"", b"x" * 1_000_000):
        await queue.objects.put("a/b", content)
        assert await queue.objects.get("a/b") == content
    await queue.objects.delete(["a/b", "a/never"])
    assert await queue.objects.get("a/b") is None
    assert await keys(queue) == []


async def test_a_listing_goes_by_whole_segments(queue: Queue) -> None:
    for key in ("a/1", "a/2", "ab/3", "a-b"):
        await queue.objects.put(key, b"12")
    assert await keys(queue) == ["a-b", "a/1", "a/2", "ab/3"]
    assert await keys(queue, "a") == ["a/1", "a/2"]
    assert await keys(queue, "none") == []
    (info,) = [info async for info in queue.objects.list("ab")]
    assert (info.key, info.size) == ("ab/3", 2)
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_many_objects_are_listed_and_removed(queue: Queue) -> None:
    names = [f"many/{number:04}" for number in range(1100)]
    for name in names:
        await queue.objects.put(name, b"")
    assert await keys(queue, "many") == names
    await queue.objects.delete(names)
    assert await keys(queue) == []


async def test_objects_outlive_the_owner_and_a_reader_sees_them(url: str) -> None:
    async with Queue.open(url) as queue:
        await queue.objects.put("k", b"v")
    async with Queue.open(url) as queue, QueueReader.open(url) as reader:
        assert await queue.objects.get("k") == b"v"
        assert await reader.objects.get("k") == b"v"
        assert await keys(reader) == ["k"]


async def test_reading_makes_no_folder(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store") as queue:
        assert await queue.objects.get("k") is None
        assert await keys(queue) == []
        await queue.objects.delete(["k"])
        await queue.sweep_now()
    assert not (tmp_path / "store-payloads").exists()


async def test_the_orphan_sweep_leaves_them(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    queue = await open_queue(fresh_url())
    await queue.objects.put("k", b"v")
    await mock_clock.advance(timedelta(days=1))
    await queue.sweep_now()
    assert await queue.objects.get("k") == b"v"


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a b", "a%2fb", "a=", "\u00e4"),
        *("x" * 251, "a/" + "x" * 251 + "/b", "x/" * 256 + "x"),
    ],
)
async def test_keys_that_stores_might_read_differently_are_refused(queue: Queue, key: str) -> None:
    with pytest.raises(InvalidArgument, match="the key of an object"):
        await queue.objects.put(key, b"")
    with pytest.raises(InvalidArgument, match="the key of an object"):
        await queue.objects.get(key)
    with pytest.raises(InvalidArgument, match="the key of an object"):
        await queue.objects.delete(["fine", key])


@pytest.mark.parametrize(
    "key", ["a..b", "...", ".hidden", "a/b.c-d_e/F", "x" * 250, "x/" * 255 + "xx"]
)
async def test_odd_but_unambiguous_keys_are_taken(open_queue: OpenQueue, key: str) -> None:
    queue = await open_queue(fresh_url())
    await queue.objects.put(key, b"v")
    assert await keys(queue) == [key]


async def test_content_is_bytes(queue: Queue) -> None:
    with pytest.raises(InvalidArgumentType, match="encode it first"):
        await queue.objects.put("k", "text")  # type: ignore[arg-type]
    await queue.objects.put("k", bytearray(b"v"))
    assert await queue.objects.get("k") == b"v"


async def test_a_closed_queue_refuses(url: str) -> None:
    queue = await Queue.open(url)
    objects = queue.objects
    await queue.close()
    with pytest.raises(QueueClosed):
        await objects.get("k")
    with pytest.raises(QueueClosed):
        await objects.put("k", b"v")
