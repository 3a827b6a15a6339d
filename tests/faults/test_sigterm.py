"""SIGTERM at full load on a slow store: the process drains, closes, and ends within its bound."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from tests.crash.audit import audit
from tests.faults.slow_store_child import DRAIN_SECONDS
from tests.faults.support import FaultyStore
from tests.servers.faults import Faults
from tests.servers.stores import S3Server

CHILD = Path(__file__).with_name("slow_store_child.py")
LATENCY_MS = 200
CLOSE_SECONDS = 10
"""A few dozen round trips: the last flush, its tables, and the manifest."""


async def test_sigterm_at_full_load_drains_and_closes_in_time(
    s3_server: S3Server, store: FaultyStore, tmp_path: Path
) -> None:
    log = tmp_path / "acknowledged"
    log.touch()
    await store.proxy.inject(Faults(latency_ms=LATENCY_MS))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHILD),
        store.url,
        str(log),
        env={**os.environ, **s3_server.environment(store.proxy.endpoint)},
    )
    try:
        async with asyncio.timeout(60):
            # The child writes the log when it likes: there is no event to wait for.
            while log.read_text().count("\n") < 300:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        told_at = time.monotonic()
        assert await asyncio.wait_for(child.wait(), 60) == 0
        assert time.monotonic() - told_at < DRAIN_SECONDS + CLOSE_SECONDS
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    acknowledged = set(log.read_text().split())
    async with store.next_owner() as queue:
        state = await audit(queue)
    ran = state.entries("ran/").keys()
    assert acknowledged <= ran | state.jobs.keys()
    assert not ran & state.jobs.keys()
    assert state.counters["q"].done == len(ran)
    # What the drain interrupted was put back, its attempt not spent: nothing was left claimed.
    assert all(job.attempts == 0 for _, _, job in state.jobs.values())
    assert any(state.history.values())
