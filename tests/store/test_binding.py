"""The fast binding does what the binding's public methods do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slatedb.uniffi import (
    CloseReason,
    Db,
    DbBuilder,
    DbReaderBuilder,
    Error,
    KeyRange,
    ObjectStore,
    Settings,
    WriteBatch,
)

from taquba._engine import binding
from taquba._engine.binding import Fill, Flush, Get, Handle, NextRows, Row, Write
from taquba._model.keys import Op

keys = st.binary(min_size=1, max_size=40)
values = st.binary(max_size=300) | st.sampled_from([b"", bytes(65_536), b"\xff" * 262_144])
ops = st.lists(st.tuples(keys, st.none() | values), max_size=30)

EVERYTHING = KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True)


WAYS_TO_COMMIT = [
    pytest.param(binding.write, binding.flush, id="fast"),
    pytest.param(binding.write_plainly, binding.flush_plainly, id="plain"),
]


async def open_db(store: ObjectStore | None = None) -> Db:
    """A database that flushes only when it is told to."""
    settings = Settings.default()
    settings.set("flush_interval", "null")
    builder = DbBuilder("", ObjectStore.resolve("memory:///") if store is None else store)
    builder.with_settings(settings)
    return await builder.build()


def batch_of(*ops: Op) -> WriteBatch:
    batch = WriteBatch()
    binding.fill(batch, ops)
    return batch


T = TypeVar("T")


async def wait(answer: Awaitable[T]) -> T:
    return await asyncio.wait_for(answer, 10)


async def written(fill: Fill, ops: list[Op], next_rows: NextRows, limit: int) -> list[Row]:
    db = await open_db()
    try:
        batch = WriteBatch()
        fill(batch, ops)
        await db.write(batch)
        scan = await db.scan(EVERYTHING)
        rows: list[Row] = []
        while True:
            found = await next_rows(scan, limit, wait)
            rows += found
            if len(found) < limit:
                return rows
    finally:
        await db.shutdown()


def test_the_fast_path_is_in_use_on_this_platform() -> None:
    assert binding.uses_fast_path


@given(ops=ops, limit=st.integers(1, 10))
def test_both_ways_write_and_read_the_same_rows(ops: list[Op], limit: int) -> None:
    expected: dict[bytes, bytes] = {}
    for key, value in ops:
        expected.pop(key, None)
        if value is not None:
            expected[key] = value
    for fill in (binding.fill, binding.fill_plainly):
        for next_rows in (binding.next_rows, binding.next_rows_plainly):
            if ops:
                rows = asyncio.run(written(fill, ops, next_rows, limit))
                assert rows == sorted(expected.items())


async def test_a_refused_row_raises_both_ways() -> None:
    db = await open_db()
    for fill in (binding.fill, binding.fill_plainly):
        batch = WriteBatch()
        fill(batch, [(b"k", b"v")])
        await db.write(batch)
        # The batch is used up: SlateDB refuses to add to it.
        with pytest.raises(Exception, match="batch"):
            fill(batch, [(b"k2", b"v2")])
    await db.shutdown()


async def values_of(handle: Handle, get: Get, keys: list[bytes]) -> list[bytes | None]:
    return list(await asyncio.gather(*(get(handle, key, wait) for key in keys)))


@given(rows=st.dictionaries(keys, values, max_size=10), absent=st.lists(keys, max_size=5))
def test_both_ways_find_the_same_values(rows: dict[bytes, bytes], absent: list[bytes]) -> None:
    async def compare() -> None:
        db = await open_db()
        batch = WriteBatch()
        binding.fill(batch, [(b"first", b""), *rows.items()])
        await db.write(batch)
        wanted = [b"first", *rows, *absent]
        expected = [{b"first": b"", **rows}.get(key) for key in wanted]
        for get in (binding.get, binding.get_plainly):
            assert await values_of(db, get, wanted) == expected
        await db.shutdown()

    asyncio.run(compare())


async def test_values_are_read_from_files_and_by_readers_both_ways(tmp_path: Path) -> None:
    store = ObjectStore.resolve("file:///")
    name = str(tmp_path / "db").lstrip("/")
    rows = {b"%05d" % number: bytes([number % 256]) * 5_000 for number in range(1_000)}
    db = await DbBuilder(name, store).build()
    batch = WriteBatch()
    binding.fill(batch, list(rows.items()))
    await db.write(batch)
    await db.shutdown()
    # Nothing of it is in the memory of these: they have to fetch.
    owner = await DbBuilder(name, store).build()
    reader = await DbReaderBuilder(name, store).build()
    wanted = [*[*rows][::10], b"none"]
    for handle in (owner, reader):
        for get in (binding.get, binding.get_plainly):
            assert await values_of(handle, get, wanted) == [rows.get(key) for key in wanted]
    await reader.shutdown()
    await owner.shutdown()


async def test_a_read_of_a_closed_database_raises_both_ways() -> None:
    db = await open_db()
    await db.shutdown()
    for get in (binding.get, binding.get_plainly):
        with pytest.raises(Error.Closed):
            await get(db, b"key", wait)


async def test_a_read_that_is_given_up_does_no_harm(tmp_path: Path) -> None:
    store = ObjectStore.resolve("file:///")
    name = str(tmp_path / "db").lstrip("/")
    db = await DbBuilder(name, store).build()
    batch = WriteBatch()
    binding.fill(batch, [(b"%05d" % number, bytes(5_000)) for number in range(1_000)])
    await db.write(batch)
    await db.shutdown()
    db = await DbBuilder(name, store).build()
    for number in range(0, 1_000, 20):
        reading = asyncio.ensure_future(binding.get(db, b"%05d" % number, wait))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert await binding.get(db, b"00999", wait) == bytes(5_000)
    await db.shutdown()


@pytest.mark.parametrize(("write", "flush"), WAYS_TO_COMMIT)
async def test_what_was_flushed_is_there_for_the_next_owner(write: Write, flush: Flush) -> None:
    store = ObjectStore.resolve("memory:///")
    db = await open_db(store)
    await write(db, batch_of((b"flushed", b"1")))
    await flush(db)
    await write(db, batch_of((b"not flushed", b"2")))
    # The next owner opens while this one is still there, as after a crash.
    other = await open_db(store)
    assert await other.get(b"flushed") == b"1"
    assert await other.get(b"not flushed") is None
    await other.shutdown()


@pytest.mark.parametrize(("write", "flush"), WAYS_TO_COMMIT)
async def test_a_fenced_owner_is_told_both_ways(write: Write, flush: Flush) -> None:
    store = ObjectStore.resolve("memory:///")
    db = await open_db(store)
    other = await open_db(store)

    async def commit() -> None:
        await write(db, batch_of((b"k", b"v")))
        await flush(db)

    with pytest.raises(Error.Closed) as told:
        await commit()
    assert told.value.reason is CloseReason.FENCED
    await other.shutdown()


async def test_many_calls_at_a_time_get_their_own_results() -> None:
    db = await open_db()

    async def one(number: int) -> None:
        prefix = b"%04d" % number
        rows = [(prefix + b"/%d" % row, bytes(row)) for row in range(5)]
        await binding.write(db, batch_of(*rows))
        if number % 10 == 0:
            await binding.flush(db)
        span = KeyRange(start=prefix, start_inclusive=True, end=prefix + b"~", end_inclusive=True)
        assert await binding.next_rows(await db.scan(span), 10, wait) == rows

    await asyncio.gather(*(one(number) for number in range(200)))
    await db.shutdown()


async def test_commits_that_are_given_up_at_any_moment_do_no_harm() -> None:
    db = await open_db()
    for turns in range(60):
        calls = [
            asyncio.ensure_future(binding.write(db, batch_of((b"%d" % turns, b"v")))),
            asyncio.ensure_future(binding.flush(db)),
        ]
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    await binding.write(db, batch_of((b"last", b"v")))
    await binding.flush(db)
    assert await db.get(b"last") == b"v"
    await db.shutdown()


PLAIN_RUN = """
import asyncio
from taquba import Queue
from taquba._engine import binding

async def main():
    assert not binding.uses_fast_path
    assert binding.fill is binding.fill_plainly
    async with Queue.open("memory://") as queue:
        for n in range(10):
            await queue.enqueue("a", bytes(n))
        claims = await queue.claim_batch("a", 20)
        assert [len(claim.payload) for claim in claims] == list(range(10))
        for claim in claims:
            await queue.ack(claim)
        assert (await queue.stats("a")).done == 10

asyncio.run(main())
"""


def test_the_fast_path_can_be_switched_off() -> None:
    environment = {**os.environ, binding.FAST_BINDING_VARIABLE: "0"}
    subprocess.run([sys.executable, "-c", PLAIN_RUN], env=environment, timeout=60, check=True)
