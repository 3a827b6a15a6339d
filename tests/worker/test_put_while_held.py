"""Entries that a handler writes as long as it holds its job."""

from __future__ import annotations

import pytest

from taquba import ClaimLost, JobRecord, KvValueTooLarge, LeaseHandle, Queue, RetryAfter, run_worker
from taquba.extending import put_while_held


async def test_what_a_handler_writes_is_written_while_it_holds_its_job(queue: Queue) -> None:
    handles: list[LeaseHandle] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        handles.append(lease)
        await put_while_held(lease, "text", b"written")
        await put_while_held(lease, b"bytes", b"too")
        with pytest.raises(KvValueTooLarge):
            await put_while_held(lease, "large", bytes(2**20))

    await queue.enqueue("q", b"")
    await run_worker(queue, "q", handler, until_empty=True)
    assert await queue.kv_get("text") == b"written"
    assert await queue.kv_get("bytes") == b"too"
    with pytest.raises(ClaimLost):
        await put_while_held(handles[0], "text", b"late")
    assert await queue.kv_get("text") == b"written"


async def test_a_job_that_is_held_again_is_not_held_by_the_first_handler(queue: Queue) -> None:
    handles: list[LeaseHandle] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        handles.append(lease)
        if len(handles) == 1:
            raise RetryAfter(0)
        with pytest.raises(ClaimLost):
            await put_while_held(handles[0], "key", b"of the first")
        await put_while_held(lease, "key", b"of the second")

    await queue.enqueue("q", b"", max_attempts=2)
    await run_worker(queue, "q", handler, until_empty=True)
    assert await queue.kv_get("key") == b"of the second"
