"""A few bytes of a stranger's take neither much memory nor much time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from taquba import EnqueueRequest, InboxConfig, InvalidArgument, Producer, Queue
from taquba._line.frames import BrokenFrame, Frames
from taquba._model.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_REASON,
    MalformedBatch,
    decode_batch,
    encode_batch,
    encode_request,
)
from tests.inbox.support import inbox_at, rejected
from tests.queue.support import fresh_url

NAME = "01ARYZ6S41TSV4RRFFQ69G5FAV"
ASLEEP = InboxConfig(poll_interval=3600)
HEAD = b"\x94\xactaquba batch\x01\x00"
SIZE = MAX_BATCH_BYTES - 100
ROW = [b"\xa1q", b"\xc4\x00", b"\xa4id-1", b"\xc2", *[b"\xc0"] * 6]


def array_of(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def map_of(count: int) -> bytes:
    return b"\xdf" + count.to_bytes(4, "big")


def row_with(position: int, value: bytes) -> bytes:
    fields = [*ROW[:position], value, *ROW[position + 1 :]]
    return HEAD + array_of(1) + array_of(len(fields)) + b"".join(fields)


def long_value(kind: int) -> bytes:
    size = SIZE - 200
    return bytes([kind]) + size.to_bytes(4, "big") + b"\x07" * size


def long_in_field(field: int, kind: int) -> bytes:
    return row_with(field, long_value(kind))


def many(before: bytes, item: bytes) -> bytes:
    return before + array_of(SIZE) + item * SIZE


def many_in_field(field: int, item: bytes) -> bytes:
    return row_with(field, many(b"", item))


EMPTY = [b"\x90", b"\x80", b"\xc0", b"\xa0", b"\x00"]
BOMBS: dict[str, Callable[[], bytes]] = {
    **{f"{item.hex()} instead of a batch": partial(many, b"", item) for item in EMPTY},
    **{f"{item.hex()} for requests": partial(many, HEAD, item) for item in EMPTY},
    **{
        f"{item.hex()} in field {field}": partial(many_in_field, field, item)
        for item in EMPTY[:2]
        for field in (0, 1, 4, 8, 9)
    },
    "a large map": lambda: row_with(8, map_of(SIZE // 2) + b"\xa0" * SIZE),
    "large entries": lambda: row_with(9, map_of(SIZE // 4) + b"\xc4\x00\xc4\x00" * (SIZE // 4)),
    "maps in maps": lambda: row_with(8, map_of(100) * (SIZE // 5)),
    "arrays in arrays": lambda: b"\x91" * SIZE,
    "arrays of ten in arrays": lambda: b"\x9a" * SIZE,
    "a promise": lambda: HEAD + array_of(2**32 - 1),
    **{f"a long text in field {field}": partial(long_in_field, field, 0xDB) for field in range(10)},
    **{f"long bytes in field {field}": partial(long_in_field, field, 0xC6) for field in (0, 2, 7)},
    "a long key": lambda: row_with(9, b"\x81" + long_value(0xC6) + b"\xc4\x00"),
    "a long name": lambda: row_with(8, b"\x81" + long_value(0xC6) + b"\xc4\x00"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once_and_in_few_words(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    assert len(data) <= MAX_BATCH_BYTES
    started = time.perf_counter()
    with pytest.raises(MalformedBatch) as caught:
        decode_batch(NAME, data)
    assert time.perf_counter() - started < 2
    assert len(str(caught.value)) <= MAX_REASON + 200


@pytest.mark.parametrize("kind", ["many arrays", "nested arrays", "a long text"])
def test_a_frame_that_is_a_bomb_is_refused_at_once(kind: str) -> None:
    if kind == "many arrays":
        body = many(b"", b"\x90")
    else:
        body = b"\x9a" * SIZE if kind == "nested arrays" else long_value(0xDB)
    frames = Frames()
    started = time.perf_counter()
    with pytest.raises(BrokenFrame) as caught:
        list(frames.feed(len(body).to_bytes(4, "big") + b"\x01" + body))
    assert time.perf_counter() - started < 2
    assert len(str(caught.value)) < 300


MEMORY = """
import resource, sys
from tests.inbox.test_bombs import BOMBS, NAME
from taquba._model.batch import MalformedBatch, decode_batch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("90 instead of a batch", "90 for requests", "80 in field 8", "large entries"):
    try:
        decode_batch(NAME, BOMBS[name]())
    except MalformedBatch:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_bomb_takes_much_more_memory_than_its_bytes() -> None:
    child = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(child.stdout) < 200


async def test_a_bomb_in_the_inbox_holds_nobody_up() -> None:
    url = fresh_url()
    async with Queue.open(url, inbox=ASLEEP) as queue:
        inbox = await inbox_at(url)
        requests = [encode_request(EnqueueRequest("q", b""), f"id-{n}", 0) for n in range(10_000)]
        # All of it has to be read before it is known to be malformed.
        await inbox.put(str(ULID()), encode_batch(0, [*requests[1:], requests[1]]))
        await inbox.put(str(ULID()), HEAD + array_of(SIZE) + b"\x90" * SIZE)
        taking = asyncio.create_task(queue.ingest_now())
        longest, before = 0.0, time.perf_counter()
        while not taking.done():
            await asyncio.sleep(0.001)
            longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
        await taking
        # A loaded machine gives the loop its turn late; in one piece it would take much longer.
        assert longest < 1
        assert [len(reason) < 2 * MAX_REASON for reason in (await rejected(inbox)).values()] == [
            True,
            True,
        ]


@pytest.mark.parametrize("sent_at", [-(2**63), -1, 2**63, 2**64 - 1, 253_402_300_800_000])
def test_a_time_that_no_listing_could_show_is_refused(sent_at: int) -> None:
    request = encode_request(EnqueueRequest("q", b""), "id-1", 0)
    with pytest.raises(MalformedBatch, match="is not a time"):
        decode_batch(NAME, encode_batch(sent_at, [request]))


@pytest.mark.parametrize("position", [4, 5, 6])
@pytest.mark.parametrize("value", [-(2**63), -1, 2**64 - 1, 2.5, True, float("nan")])
def test_a_number_out_of_its_range_is_refused(position: int, value: object) -> None:
    with pytest.raises(MalformedBatch):
        decode_batch(NAME, row_with(position, bytes(msgpack.packb(value))))


@pytest.mark.parametrize("name", ["", "x" * 10**6, "a/b", "\0", "01aryz6s41tsv4rrffq69g5fav"])
def test_a_name_that_is_not_one_is_refused(name: str) -> None:
    data = encode_batch(0, [encode_request(EnqueueRequest("q", b""), "id-1", 0)])
    with pytest.raises(MalformedBatch, match="name"):
        decode_batch(name, data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(VALUES, min_size=10, max_size=10), st.integers(-(2**63), 2**64 - 1))
def test_whatever_a_batch_holds_is_taken_or_malformed(row: list[object], sent_at: int) -> None:
    data = bytes(msgpack.packb(["taquba batch", 1, sent_at, [row]]))
    longest = 0
    for end in (len(data), len(data) // 2):
        try:
            decode_batch(NAME, data[:end])
        except MalformedBatch as malformed:
            longest = max(longest, len(str(malformed)))
    assert longest <= MAX_REASON + 200


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_taken_or_malformed(data: bytes) -> None:
    for start in (b"", HEAD, HEAD + b"\x91\x9a"):
        with pytest.raises(MalformedBatch):
            decode_batch(NAME, start + data)


async def test_a_producer_sends_no_batch_that_no_owner_takes() -> None:
    url = fresh_url()
    async with Queue.open(url, inbox=ASLEEP) as queue, Producer.open(url) as producer:
        most = {str(n): b"" for n in range(1000)}
        request = EnqueueRequest("q", b"", kv_writes=dict.fromkeys(most, b""))
        with pytest.raises(InvalidArgument, match="at most 300000 headers"):
            await producer.enqueue_batch([request] * (MAX_BATCH_ENTRIES // 1000 + 1))
        await producer.enqueue_batch([request] * 20)
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == 20
