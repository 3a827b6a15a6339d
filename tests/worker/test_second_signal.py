"""A second signal ends the program, whatever its handlers do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from taquba import JobStatus, Queue

CHILD = Path(__file__).with_name("stuck_child.py")
ROOT = Path(__file__).parents[2]
SECONDS = 9
"""A container is killed ten seconds after it was asked to stop."""

PROGRAMS = [
    ("run_workers", "loop", signal.SIGTERM),
    ("run_workers", "executor", signal.SIGTERM),
    ("run_service", "thread", signal.SIGINT),
    ("command", "thread", signal.SIGTERM),
    ("django", "thread", signal.SIGTERM),
    ("bulk", "loop", signal.SIGINT),
]
TASK = {"task": "tests.worker.stuck_tasks.stay", "args": [], "kwargs": {}}


async def put(store: Path, payload: bytes) -> None:
    async with Queue.open(store, fsync=False, inbox=True) as queue:
        await queue.enqueue("q", payload)


async def left(store: Path) -> list[tuple[JobStatus, int]]:
    async with Queue.open(store, fsync=False, inbox=True) as queue:
        pages = [await queue.list_jobs("q", status) for status in JobStatus]
        return [(job.status, job.attempts) for page in pages for job in page.jobs]


@pytest.mark.parametrize(("program", "where", "number"), PROGRAMS)
def test_a_second_signal_ends_a_program_whose_handler_does_not_end(
    tmp_path: Path, program: str, where: str, number: signal.Signals
) -> None:
    store = tmp_path / "store"
    if program != "bulk":
        asyncio.run(put(store, json.dumps(TASK).encode()))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.worker.stuck_child", program, where, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        # Reading a line has no bound of its own.
        overdue = threading.Timer(30, child.kill)
        overdue.start()
        try:
            assert child.stdout is not None
            assert "started\n" in iter(child.stdout.readline, "")
            child.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.2)
            child.send_signal(number)
            told_at = time.monotonic()
            child.wait(30)
            assert time.monotonic() - told_at < SECONDS
        finally:
            overdue.cancel()
            child.kill()
    assert asyncio.run(left(store)) == [(JobStatus.PENDING, 0)]
