"""A reader that is closed refuses every call, and lets others run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from taquba import JobStatus, Queue, QueueClosed, QueueReader

CALLS: list[Callable[[QueueReader], Awaitable[object]]] = [
    lambda reader: reader.stats("q"),
    lambda reader: reader.list_queues(),
    lambda reader: reader.get_job("x"),
    lambda reader: reader.list_jobs("q", JobStatus.PENDING),
    lambda reader: reader.attempt_history("x"),
    lambda reader: reader.kv_get("x"),
    lambda reader: reader.kv_scan("x"),
    lambda reader: reader.writer_heartbeat(),
    lambda reader: reader.detect_owner(),
    lambda reader: reader.inbox_stats(),
    lambda reader: reader.rejected_batches(),
]


async def test_a_loop_around_refused_calls_lets_others_run(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store", fsync=False):
        reader = await QueueReader.open(tmp_path / "store")
        await reader.close()
    for call in CALLS:
        others_ran = asyncio.Event()
        asyncio.get_running_loop().call_soon(others_ran.set)
        with pytest.raises(QueueClosed):
            await call(reader)
        assert others_ran.is_set()
