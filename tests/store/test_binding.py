"""The fast binding does what the binding's public methods do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slatedb.uniffi import Db, DbBuilder, KeyRange, ObjectStore, WriteBatch

from taquba._model.keys import Op
from taquba._store import binding
from taquba._store.binding import Fill, NextRows, Row

keys = st.binary(min_size=1, max_size=40)
values = st.binary(max_size=300) | st.sampled_from([b"", bytes(65_536), b"\xff" * 262_144])
ops = st.lists(st.tuples(keys, st.none() | values), max_size=30)

EVERYTHING = KeyRange(start=None, start_inclusive=True, end=None, end_inclusive=True)


async def open_db() -> Db:
    return await DbBuilder("", ObjectStore.resolve("memory:///")).build()


async def written(fill: Fill, ops: list[Op], next_rows: NextRows, limit: int) -> list[Row]:
    db = await open_db()
    try:
        batch = WriteBatch()
        fill(batch, ops)
        await db.write(batch)
        scan = await db.scan(EVERYTHING)
        rows: list[Row] = []
        while True:
            found = await next_rows(scan, limit)
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


PLAIN_RUN = """
import asyncio
from taquba import Queue
from taquba._store import binding

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
