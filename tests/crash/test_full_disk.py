"""A disk that takes no more: the owner says so in time, and what it acknowledged is kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from taquba import Queue
from taquba.testing import MockClock
from tests.crash.audit import audit

SCRIPT = Path(__file__).with_name("full_disk_child.py")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
async def test_what_was_acknowledged_before_the_disk_was_full_is_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    command = [sys.executable, str(SCRIPT), store, str(64 * 1024)]
    ran = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    reports = [line.split() for line in ran.stdout.splitlines()]
    assert [kind for kind, _ in reports] == ["enqueued"] * 5 + ["failed", "closed"]
    async with Queue.open(store, clock=MockClock(datetime.now(UTC))) as queue:
        await audit(queue, idle=False)
        for _, job_id in reports[:5]:
            assert await queue.get_job(job_id) is not None
        await queue.enqueue("q", b"there is room again")
