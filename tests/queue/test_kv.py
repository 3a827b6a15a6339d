from __future__ import annotations

import asyncio

import pytest

from taquba import (
    MAX_KV_VALUE_SIZE,
    EnqueueRequest,
    InvalidArgument,
    KvPage,
    Queue,
    SettlementEffects,
)
from tests.queue.support import OpenQueue, fresh_url, leftovers, must_claim


async def test_an_entry_is_put_read_replaced_and_deleted(queue: Queue) -> None:
    assert await queue.kv_get("k") is None
    await queue.kv_put("k", b"1")
    assert await queue.kv_get("k") == b"1"
    await queue.kv_put("k", b"2")
    assert await queue.kv_get("k") == b"2"
    await queue.kv_delete("k")
    assert await queue.kv_get("k") is None
    await queue.kv_delete("k")
    assert await leftovers(queue) == {}


async def test_a_text_key_is_its_utf8_bytes(queue: Queue) -> None:
    await queue.kv_put("schlüssel", b"1")
    assert await queue.kv_get("schlüssel".encode()) == b"1"


@pytest.mark.parametrize("value", [b"", b"\0", bytes(MAX_KV_VALUE_SIZE)])
async def test_any_value_up_to_the_limit(queue: Queue, value: bytes) -> None:
    assert MAX_KV_VALUE_SIZE == 256 * 1024
    await queue.kv_put("k", value)
    assert await queue.kv_get("k") == value


@pytest.mark.parametrize("key", [b"\0", b"\xff", b"\xff" * 4096, b"\x01\x01", "x" * 4096])
async def test_any_key_up_to_the_limit(queue: Queue, key: str | bytes) -> None:
    await queue.kv_put(key, b"v")
    assert await queue.kv_get(key) == b"v"
    await queue.kv_delete(key)
    assert await leftovers(queue) == {}


async def test_entries_do_not_meet_the_queues_own_rows(queue: Queue) -> None:
    """Caller's keys that look like the keys of other spaces."""
    await queue.enqueue("q", b"", job_id="a")
    before = await leftovers(queue)
    for key in before:
        await queue.kv_put(key, b"mine")
    for key in before:
        await queue.kv_delete(key)
    assert await leftovers(queue) == before


async def test_entries_survive_a_reopen(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue = await open_queue(url)
    await queue.kv_put("kept", b"1")
    await queue.kv_put("gone", b"1")
    await queue.kv_delete("gone")
    # Opened a second time without a close: what was acknowledged is there.
    queue = await open_queue(url, take_over=True)
    assert await queue.kv_get("kept") == b"1"
    assert await queue.kv_get("gone") is None


# -- compare and set ----------------------------------------------------------------------------


async def test_compare_put(queue: Queue) -> None:
    assert not await queue.kv_compare_put("k", b"1", b"2")
    assert await queue.kv_get("k") is None
    assert await queue.kv_compare_put("k", None, b"1")
    assert not await queue.kv_compare_put("k", None, b"2")
    assert not await queue.kv_compare_put("k", b"other", b"2")
    assert await queue.kv_get("k") == b"1"
    assert await queue.kv_compare_put("k", b"1", b"2")
    assert await queue.kv_get("k") == b"2"


async def test_an_empty_value_is_not_an_absent_one(queue: Queue) -> None:
    await queue.kv_put("k", b"")
    assert not await queue.kv_compare_put("k", None, b"1")
    assert await queue.kv_compare_put("k", b"", b"1")


async def test_compare_delete(queue: Queue) -> None:
    assert not await queue.kv_compare_delete("k", b"1")
    await queue.kv_put("k", b"1")
    assert not await queue.kv_compare_delete("k", b"2")
    assert await queue.kv_get("k") == b"1"
    assert await queue.kv_compare_delete("k", b"1")
    assert await queue.kv_get("k") is None


async def test_concurrent_compare_puts_lose_no_write(queue: Queue) -> None:
    async def count_up() -> None:
        while True:
            seen = await queue.kv_get("n")
            if await queue.kv_compare_put("n", seen, str(int(seen or 0) + 1).encode()):
                return

    await asyncio.gather(*(count_up() for _ in range(40)))
    assert await queue.kv_get("n") == b"40"


async def test_a_compare_put_sees_a_put_that_was_decided_before_it(queue: Queue) -> None:
    results = await asyncio.gather(
        queue.kv_put("k", b"1"), queue.kv_compare_put("k", None, b"2"), return_exceptions=True
    )
    assert results == [None, False]
    assert await queue.kv_get("k") == b"1"


@pytest.mark.parametrize(
    "way", ["put", "delete", "enqueue", "dedup", "ack", "dead_letter", "cancel"]
)
async def test_a_write_beside_a_compare_put_is_never_overwritten_unseen(
    queue: Queue, way: str
) -> None:
    """Whoever comes second wins; but a compare-put that wins must have seen the other's write.

    So of a plain write and a compare-put that expects what was there before, the plain write is
    always what stays.
    """
    lost: list[int] = []
    for turns in range(30):
        key = f"k{turns}"
        await queue.kv_put(key, b"before")
        if way in ("ack", "dead_letter", "cancel"):
            await queue.enqueue("q", b"", job_id=key)
        claim = await must_claim(queue) if way in ("ack", "dead_letter") else None
        effects = SettlementEffects(
            enqueues=[EnqueueRequest("next", b"", dedup_key=key)], kv_writes={key: b"plain"}
        )

        async def write(
            key: str = key, effects: SettlementEffects = effects, claim: object = claim
        ) -> None:
            match way:
                case "put":
                    await queue.kv_put(key, b"plain")
                case "delete":
                    await queue.kv_delete(key)
                case "enqueue":
                    await queue.enqueue("other", b"", kv_writes={key: b"plain"})
                case "dedup":
                    await queue.enqueue("other", b"", dedup_key=key, kv_writes={key: b"plain"})
                case "ack":
                    await queue.ack(claim, effects)  # type: ignore[arg-type]
                case "dead_letter":
                    await queue.dead_letter(claim, "no", effects)  # type: ignore[arg-type]
                case _:
                    await queue.cancel(key, SettlementEffects(kv_writes={key: b"plain"}))

        writing = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0)
        await queue.kv_compare_put(key, b"before", b"compared")
        await writing
        if await queue.kv_get(key) != (None if way == "delete" else b"plain"):
            lost.append(turns)
    assert lost == []


# -- scan ---------------------------------------------------------------------------------------


async def test_scan_gives_the_entries_of_a_prefix_in_key_order(queue: Queue) -> None:
    for key in ("b/2", "a/1", "b/1", "c", "b", "b/10"):
        await queue.kv_put(key, key.encode())
    page = await queue.kv_scan("b/")
    assert isinstance(page, KvPage)
    assert [(entry.key, entry.value) for entry in page.entries] == [
        ("b/1", b"b/1"),
        ("b/10", b"b/10"),
        ("b/2", b"b/2"),
    ]
    assert page.next_cursor is None
    assert len((await queue.kv_scan("")).entries) == 6
    assert (await queue.kv_scan("nothing")).entries == []


async def test_scan_gives_keys_of_the_prefixes_type(queue: Queue) -> None:
    await queue.kv_put("ä", b"1")
    assert [entry.key for entry in (await queue.kv_scan("")).entries] == ["ä"]
    assert [entry.key for entry in (await queue.kv_scan(b"")).entries] == ["ä".encode()]


async def test_scan_pages(queue: Queue) -> None:
    keys = [f"k{n:03}" for n in range(25)]
    for key in reversed(keys):
        await queue.kv_put(key, b"")
    await queue.kv_put("l", b"")
    found: list[str] = []
    sizes: list[int] = []
    cursor = None
    while True:
        page = await queue.kv_scan("k", cursor=cursor, limit=10)
        found += [entry.key for entry in page.entries]
        sizes.append(len(page.entries))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == keys
    assert sizes == [10, 10, 5]


async def test_a_page_that_ends_with_the_last_entry_is_the_last(queue: Queue) -> None:
    for n in range(4):
        await queue.kv_put(f"k{n}", b"")
    page = await queue.kv_scan("k", limit=2)
    assert page.next_cursor is not None
    assert (await queue.kv_scan("k", cursor=page.next_cursor, limit=2)).next_cursor is None


async def test_a_scan_goes_on_although_its_place_was_deleted(queue: Queue) -> None:
    for n in range(4):
        await queue.kv_put(f"k{n}", b"")
    page = await queue.kv_scan("k", limit=2)
    await queue.kv_delete("k1")
    await queue.kv_put("k15", b"")
    rest = await queue.kv_scan("k", cursor=page.next_cursor)
    assert [entry.key for entry in rest.entries] == ["k15", "k2", "k3"]


async def test_a_cursor_of_another_prefix_is_refused(queue: Queue) -> None:
    for key in ("a1", "a2", "b1"):
        await queue.kv_put(key, b"")
    page = await queue.kv_scan("a", limit=1)
    with pytest.raises(InvalidArgument, match=f"{page.next_cursor}.*next_cursor"):
        await queue.kv_scan("b", cursor=page.next_cursor)


async def test_a_text_scan_that_meets_another_key_says_so(queue: Queue) -> None:
    await queue.kv_put(b"k\xff", b"")
    page = await queue.kv_scan("k")
    assert not page.entries
    assert [record.key for record in page.unreadable] == [b"k\xff"]
    assert "bytes prefix" in page.unreadable[0].reason
    assert [entry.key for entry in (await queue.kv_scan(b"k")).entries] == [b"k\xff"]
