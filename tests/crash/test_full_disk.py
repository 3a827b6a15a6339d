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


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")


async def run_child(store: str, *options: str) -> list[tuple[str, str]]:
    """What it did: pairs of a word and what belongs to it."""
    command = [sys.executable, str(SCRIPT), store, str(64 * 1024), *options]
    ran = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [
        (word, rest) for word, _, rest in (line.partition(" ") for line in ran.stdout.splitlines())
    ]


async def test_what_was_acknowledged_before_the_disk_was_full_is_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    reports = await run_child(store, "-1", "3")
    assert [kind for kind, _ in reports] == ["enqueued"] * 5 + ["failed", "closed"]
    assert "ulimit" in reports[5][1]
    async with Queue.open(store, clock=MockClock(datetime.now(UTC))) as queue:
        await audit(queue, idle=False)
        for _, job_id in reports[:5]:
            assert await queue.get_job(job_id) is not None
        await queue.enqueue("q", b"there is room again")


async def test_a_disk_that_has_room_again_soon_is_survived(tmp_path: Path) -> None:
    """Later than the engine itself tries."""
    store = str(tmp_path / "store")
    reports = await run_child(store, "9")
    assert [kind for kind, _ in reports] == ["enqueued"] * 6 + ["closed"]
    async with Queue.open(store, clock=MockClock(datetime.now(UTC))) as queue:
        await audit(queue, idle=False)
        for _, job_id in reports[:6]:
            assert await queue.get_job(job_id) is not None
