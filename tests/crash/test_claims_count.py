"""A job that takes its process down is not tried for ever, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from taquba import EnqueueRequest, JobStatus, Queue, QueueConfig, StoreFenced

CHILD = """
import asyncio, os, signal, sys
from taquba import Queue, QueueConfig

async def main(url):
    config = QueueConfig(max_attempts=2, retry_backoff_base=0)
    queue = await Queue.open(url, default_config=config, take_over=True)
    claim = await queue.claim("fatal")
    if claim is None:
        os._exit(7)
    # Nothing else is written from here on: the claim has to become durable by itself.
    await asyncio.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


LIVING = """
import asyncio, sys
from taquba import Queue

async def main(url):
    queue = await Queue.open(url)
    claim = await queue.claim("fatal")
    await queue.kv_put("claimed", b"")
    print(claim.suspect, flush=True)
    sys.stdin.read()

asyncio.run(main(sys.argv[1]))
"""


WORKER = """
import asyncio, os, sys
from taquba import Queue, QueueConfig, run_worker

async def handle(job, lease):
    if job.payload == b"killer":
        await asyncio.sleep(float(sys.argv[2]))
        os._exit(9)
    await asyncio.sleep(0.005)

async def main(url):
    config = QueueConfig(max_attempts=3, retry_backoff_base=0.02, keep_done_jobs=3600)
    async with Queue.open(url, default_config=config) as queue:
        stop = asyncio.Event()
        worker = asyncio.create_task(run_worker(queue, "q", handle, concurrency=10, shutdown=stop))
        while True:
            stats = await queue.stats("q")
            if stats.pending + stats.scheduled + stats.claimed == 0:
                break
            await asyncio.sleep(0.02)
        stop.set()
        await worker

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", ["0", "0.01", "0.1"])
async def test_a_job_that_ends_its_process_is_given_up_and_those_beside_it_pay_nothing(
    tmp_path: Path, seconds: str
) -> None:
    url = str(tmp_path / "store")
    async with Queue.open(url, default_config=QueueConfig(max_attempts=3)) as queue:
        before = await queue.enqueue_batch([EnqueueRequest("q", b"fine")] * 20)
        killer = (await queue.enqueue("q", b"killer")).id
        after = await queue.enqueue_batch([EnqueueRequest("q", b"fine")] * 20)

    codes: list[int] = []
    while not codes or codes[-1]:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, url, seconds)
        codes.append(await asyncio.wait_for(child.wait(), 60))
        assert len(codes) < 10, "the killer is never given up"
    # At first nobody knows of it; the second time it is one of several; then it is alone.
    assert codes[:-1] in ([9] * 4, [9] * 5)

    async with Queue.open(url, default_config=QueueConfig(keep_done_jobs=3600)) as queue:
        job = await queue.get_job(killer)
        assert job is not None
        assert (job.status, job.attempts, job.suspect) == (JobStatus.DEAD, 3, False)
        assert job.last_error is not None
        assert "ended 3 times while it ran alone" in job.last_error
        story = [(entry.outcome, entry.counted) for entry in await queue.attempt_history(killer)]
        assert story == [("interrupted", False)] + [("interrupted", True)] * 3
        for result in (*before, *after):
            fine = await queue.get_job(result.id)
            assert fine is not None
            assert (fine.status, fine.attempts) == (JobStatus.DONE, 1)
            *interruptions, end = await queue.attempt_history(result.id)
            assert [entry.counted for entry in interruptions] == [False] * len(interruptions)
            assert (end.outcome, end.counted) == ("completed", True)


async def test_the_attempt_of_a_killed_process_counts_in_an_idle_store(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    async with Queue.open(url, default_config=QueueConfig(max_attempts=2)) as queue:
        job_id = (await queue.enqueue("fatal", b"")).id

    for _ in range(3):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url)
        assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL

    async with Queue.open(url, default_config=QueueConfig(max_attempts=2)) as queue:
        job = await queue.get_job(job_id)
        assert job is not None
        assert (job.status, job.attempts) == (JobStatus.DEAD, 2)
        history = await queue.attempt_history(job_id)
        # It was claimed by hand, with nothing beside it but what nobody knows of.
        assert [attempt.outcome for attempt in history] == ["interrupted"] * 3
        assert [attempt.counted for attempt in history] == [False, True, True]


async def test_a_suspect_whose_owner_is_fenced_while_it_lives_pays_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    async with Queue.open(url) as queue:
        job_id = (await queue.enqueue("fatal", b"", max_attempts=1)).id
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url)
    assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL

    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIVING, url, stdin=pipe, stdout=pipe
    )
    try:
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"True\n"
        async with Queue.open(url, take_over=True) as queue:
            assert child.returncode is None
            job = await queue.get_job(job_id)
            assert job is not None
            assert (job.status, job.attempts, job.suspect) == (JobStatus.PENDING, 0, True)
            history = await queue.attempt_history(job_id)
            assert [attempt.counted for attempt in history] == [False, False]
    finally:
        child.kill()
        await child.wait()


async def test_an_owner_that_knows_that_it_is_fenced_does_not_hide_the_death_of_the_next(
    tmp_path: Path,
) -> None:
    url = str(tmp_path / "store")
    first = await Queue.open(url)
    job_id = (await first.enqueue("fatal", b"", max_attempts=1)).id
    assert await first.claim("fatal") is not None
    await first.kv_put("claimed", b"")
    second = await Queue.open(url, take_over=True)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url)
    assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
    for fenced in (first, second):
        with pytest.raises(StoreFenced):
            await fenced.enqueue("other", b"")
    async with Queue.open(url) as third:
        job = await third.get_job(job_id)
        assert job is not None
        assert (job.status, job.attempts) == (JobStatus.DEAD, 1)
    for fenced in (first, second):
        await fenced.close()
