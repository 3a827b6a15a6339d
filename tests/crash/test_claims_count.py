"""A job that takes its process down is not tried for ever."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from taquba import JobStatus, Queue, QueueConfig

CHILD = """
import asyncio, os, signal, sys
from taquba import Queue, QueueConfig

async def main(url):
    config = QueueConfig(max_attempts=2)
    queue = await Queue.open(url, default_config=config)
    claim = await queue.claim("fatal")
    if claim is None:
        os._exit(7)
    # Nothing else is written from here on: the claim has to become durable by itself.
    await asyncio.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


async def test_the_attempt_of_a_killed_process_counts_in_an_idle_store(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    async with Queue.open(url, default_config=QueueConfig(max_attempts=2)) as queue:
        job_id = (await queue.enqueue("fatal", b"")).id

    for _ in range(2):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url)
        assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL

    async with Queue.open(url, default_config=QueueConfig(max_attempts=2)) as queue:
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.attempts) == (JobStatus.dead, 2)
        outcomes = [attempt.outcome for attempt in await queue.attempt_history(job_id)]
        assert outcomes == ["interrupted", "interrupted"]
