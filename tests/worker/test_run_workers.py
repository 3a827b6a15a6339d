from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    AttemptOutcome,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    JobStatus,
    LeaseHandle,
    Queue,
    StoreFenced,
    WorkerSpec,
    run_workers,
)
from taquba.testing import MockClock
from tests.queue.support import OpenQueue, fresh_url
from tests.worker.support import REAL_SECONDS, Gate, add_jobs, finish


async def succeed(job: JobRecord, lease: LeaseHandle) -> None:
    pass


async def test_several_queues_are_worked_on(queue: Queue) -> None:
    ids = [*await add_jobs(queue, 3, "a"), *await add_jobs(queue, 3, "b")]
    shutdown = asyncio.Event()
    task = asyncio.create_task(
        run_workers(
            queue,
            WorkerSpec("a", succeed),
            WorkerSpec("b", succeed, concurrency=3),
            shutdown=shutdown,
        )
    )
    await finish(queue, *ids)
    shutdown.set()
    async with asyncio.timeout(REAL_SECONDS):
        await task
    assert (await queue.stats("a")).done == (await queue.stats("b")).done == 3


async def test_shutdown_drains_all_of_them(queue: Queue, mock_clock: MockClock) -> None:
    a, b = Gate(), Gate()
    (first,) = await add_jobs(queue, 1, "a")
    (second,) = await add_jobs(queue, 1, "b")
    shutdown = asyncio.Event()
    task = asyncio.create_task(
        run_workers(
            queue, WorkerSpec("a", a), WorkerSpec("b", b), shutdown=shutdown, drain_timeout=10
        )
    )
    await a.starts(1)
    await b.starts(1)
    shutdown.set()
    await mock_clock.advance(5)
    a.open.set()
    await mock_clock.advance(5)
    await task
    assert await queue.get_job(first) is None
    job = await queue.get_job(second)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_a_loop_that_fails_drains_the_others_and_raises(open_queue: OpenQueue) -> None:
    url = fresh_url()
    queue, healthy = await open_queue(url), Gate()
    await add_jobs(queue, 1, "b")
    task = asyncio.create_task(
        run_workers(queue, WorkerSpec("a", succeed), WorkerSpec("b", healthy))
    )
    await healthy.starts(1)
    await open_queue(url, take_over=True)
    with pytest.raises(StoreFenced):
        await queue.enqueue("a", b"")
    healthy.open.set()
    async with asyncio.timeout(REAL_SECONDS):
        with pytest.raises(StoreFenced):
            await task


async def test_cancelling_gives_all_jobs_back(queue: Queue) -> None:
    a, b = Gate(), Gate()
    ids = [*await add_jobs(queue, 1, "a"), *await add_jobs(queue, 1, "b")]
    task = asyncio.create_task(run_workers(queue, WorkerSpec("a", a), WorkerSpec("b", b)))
    await a.starts(1)
    await b.starts(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for job_id in ids:
        (entry,) = await queue.attempt_history(job_id)
        assert entry.outcome is AttemptOutcome.INTERRUPTED


def worker_tasks() -> list[asyncio.Task[Any]]:
    """Tasks that run code of the worker loops; those of the queue itself come and go."""
    return [
        task
        for task in asyncio.all_tasks()
        if (code := getattr(task.get_coro(), "cr_code", None)) is not None
        and Path(code.co_filename).parent.name == "_worker"
    ]


async def test_bad_arguments(queue: Queue) -> None:
    handlers: list[Any] = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(InvalidArgument, match="at least one WorkerSpec"):
        await run_workers(queue)
    spec: Any = ("q", succeed)
    with pytest.raises(InvalidArgumentType, match="each worker must be a WorkerSpec, not tuple"):
        await run_workers(queue, spec)
    with pytest.raises(InvalidArgument, match=r"drain_timeout.*-1"):
        await run_workers(queue, WorkerSpec("q", succeed), drain_timeout=-1)
    with pytest.raises(InvalidArgument, match=r"concurrency.*0"):
        await run_workers(queue, WorkerSpec("q", succeed, concurrency=0))
    shutdown: Any = "now"
    with pytest.raises(InvalidArgumentType, match=r"shutdown.*'now'"):
        await run_workers(queue, WorkerSpec("q", succeed), shutdown=shutdown)
    assert worker_tasks() == []
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


# -- signals ------------------------------------------------------------------------------------


async def test_the_signal_handlers_of_before_are_put_back(queue: Queue) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        for _ in range(2):
            task = asyncio.create_task(run_workers(queue, WorkerSpec("q", succeed)))
            await finish(queue, *await add_jobs(queue, 1))
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(REAL_SECONDS):
                await task
        assert received == []
        assert signal.getsignal(signal.SIGINT) is interrupt
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_without_signal_handling_signals_are_left_alone(queue: Queue) -> None:
    before = signal.getsignal(signal.SIGTERM)
    shutdown = asyncio.Event()
    task = asyncio.create_task(
        run_workers(queue, WorkerSpec("q", succeed), shutdown=shutdown, handle_signals=False)
    )
    await finish(queue, *await add_jobs(queue, 1))
    assert signal.getsignal(signal.SIGTERM) is before
    shutdown.set()
    await task


def test_outside_the_main_thread_signals_cannot_be_handled() -> None:
    """It says so, and leaves no loop behind that would go on claiming."""

    async def main() -> None:
        async with Queue.open("memory://") as queue:
            with pytest.raises(InvalidArgument, match="handle_signals=False"):
                await run_workers(queue, WorkerSpec("q", succeed))
            await queue.enqueue("q", b"")
            for _ in range(50):
                await asyncio.sleep(0)
            assert (await queue.stats("q")).pending == 1

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, main()).result(REAL_SECONDS)


CHILD = textwrap.dedent(
    """
    import asyncio, sys
    from taquba import Queue, SettlementEffects, WorkerSpec, run_workers

    def tell(*what):
        print(*what, flush=True)

    async def main():
        loop = asyncio.get_running_loop()
        add = loop.add_signal_handler

        def add_and_tell(number, callback):
            add(number, lambda: (callback(), tell("signal")))

        # So that the test can wait until a signal was handled.
        loop.add_signal_handler = add_and_tell
        lines = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

        async def handle(job, lease):
            tell("started", job.id)
            try:
                await lines.readline()
            except asyncio.CancelledError:
                tell("cancelled", job.id)
                raise
            return SettlementEffects(kv_writes={"handled": job.id.encode()})

        async with Queue.open(sys.argv[1], fsync=False) as queue:
            await queue.enqueue("q", b"1", job_id="first")
            await queue.enqueue("q", b"2", job_id="second")
            await run_workers(queue, WorkerSpec("q", handle))
            tell("returned")

    asyncio.run(main())
    """
)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        if process.poll() is None:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def look(store: Path) -> tuple[bytes | None, dict[str, tuple[str, int]]]:
    """What was handled, and (status, attempts) of the jobs that are left."""
    async with Queue.open(store, fsync=False) as queue:
        jobs = [await queue.get_job(job_id) for job_id in ("first", "second")]
        left = {job.id: (job.status.value, job.attempts) for job in jobs if job is not None}
        return await queue.kv_get("handled"), left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(
    child: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert read_line(child) == "started first"
    child.send_signal(number)
    assert read_line(child) == "signal"
    # The handler still runs, and is let go only now.
    assert child.stdin is not None
    child.stdin.write("go on\n")
    child.stdin.flush()
    assert read_line(child) == "returned"
    assert child.wait(REAL_SECONDS) == 0
    assert asyncio.run(look(tmp_path / "store")) == (b"first", {"second": ("pending", 0)})


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_interrupts(
    child: subprocess.Popen[str], tmp_path: Path, second: signal.Signals
) -> None:
    assert read_line(child) == "started first"
    for number in (signal.SIGTERM, second):
        child.send_signal(number)
        assert read_line(child) == "signal"
    assert read_line(child) == "cancelled first"
    assert read_line(child) == "returned"
    assert child.wait(REAL_SECONDS) == 0
    left = {"first": ("pending", 0), "second": ("pending", 0)}
    assert asyncio.run(look(tmp_path / "store")) == (None, left)
