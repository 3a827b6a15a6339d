"""Entries written last are read without the engine, and never otherwise than it would say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slatedb.uniffi import Db, WriteBatch

from taquba import EnqueueRequest, Queue, SettlementEffects
from taquba._engine import binding
from taquba._engine.recent import RecentEntries
from taquba._model.keys import Op, user
from tests.queue.support import must_claim

NAMES = [user(b"a"), user(b"b"), user(b"c"), b"\x01\x01other"]


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    async with Queue.open("memory://") as queue:
        yield queue


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that the engine was asked for."""
    asked: list[bytes] = []
    get = binding.get

    def counting(handle: binding.Handle, key: bytes, wait: binding.Wait) -> Awaitable[bytes | None]:
        asked.append(key)
        return get(handle, key, wait)

    monkeypatch.setattr(binding, "get", counting)
    return asked


async def test_an_entry_that_was_written_is_read_without_the_engine(
    queue: Queue, reads: list[bytes]
) -> None:
    await queue.kv_put("one", b"1")
    await queue.enqueue("q", b"x", kv_writes={"two": b"2"})
    claim = await must_claim(queue)
    effects = SettlementEffects(
        kv_writes={"three": b"3"}, enqueues=[EnqueueRequest("q", b"", kv_writes={"four": b"4"})]
    )
    await queue.ack(claim, effects)
    reads.clear()
    found = [await queue.kv_get(name) for name in ("one", "two", "three", "four")]
    assert found == [b"1", b"2", b"3", b"4"]
    assert not reads
    assert await queue.kv_compare_put("one", b"1", b"changed")
    assert await queue.kv_get("one") == b"changed"


async def test_the_engine_is_asked_for_what_is_deleted_large_or_old(
    queue: Queue, reads: list[bytes]
) -> None:
    await queue.kv_put("deleted", b"1")
    await queue.kv_put("large", b"1")
    await queue.kv_delete("deleted")
    await queue.kv_put("large", bytes(100_000))
    assert await queue.kv_get("deleted") is None
    assert await queue.kv_get("large") == bytes(100_000)
    assert reads == [user(b"deleted"), user(b"large")]


async def test_while_an_entry_is_written_the_engine_says_what_it_holds(
    queue: Queue, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.kv_put("entry", b"1")
    assert await queue.kv_get("entry") == b"1"
    assert not reads
    write = binding.write
    written, may_go_on = asyncio.Event(), asyncio.Event()

    async def gated(db: Db, batch: WriteBatch) -> None:
        await write(db, batch)
        written.set()
        await may_go_on.wait()

    monkeypatch.setattr(binding, "write", gated)
    writing = asyncio.ensure_future(queue.kv_put("entry", b"2"))
    await written.wait()
    # Nobody was told yet, but a scan sees it.
    assert (await queue.kv_scan("entry")).entries == [("entry", b"2")]
    assert await queue.kv_get("entry") == b"2"
    assert reads == [user(b"entry")]
    may_go_on.set()
    await writing
    assert await queue.kv_get("entry") == b"2"
    assert reads == [user(b"entry")]


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.binary(max_size=40)), max_size=6),
        max_size=12,
    )
)
def test_what_is_kept_is_what_was_written_last(groups: list[list[Op]]) -> None:
    recent = RecentEntries(max_bytes=500)
    written: dict[bytes, bytes | None] = {}
    for ops in groups:
        entries = recent.begin(ops)
        assert all(recent.get(key) is None for key, _ in ops)
        recent.add(entries)
        written |= dict(ops)
        for name in NAMES:
            assert recent.get(name) in (None, written.get(name))
        kept = [recent.get(name) for name in NAMES]
        assert recent.get(NAMES[-1]) is None
        assert sum(200 + len(value) for value in kept if value is not None) <= 500
        last = entries[-1] if entries else None
        if last is not None:
            assert recent.get(last[0]) == last[1]
    for name in NAMES:
        recent.add([(name, None)])
    assert recent._bytes == 0
    assert not recent._values
