"""Handlers that raise what would end the program: it is their failure, unless a signal sent it."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taquba import FailWith, JobRecord, JobStatus, LeaseHandle, Queue, SettlementEffects
from tests.worker.support import REAL_SECONDS, add_jobs, finish, working

EXITS: dict[str, BaseException] = {
    "SystemExit": SystemExit("usage: ..."),
    "KeyboardInterrupt": KeyboardInterrupt("usage: ..."),
    "GeneratorExit": GeneratorExit("usage: ..."),
    "StopIteration": StopIteration("usage: ..."),
    "CancelledError": asyncio.CancelledError("usage: ..."),
}


def leave(job: JobRecord, lease: LeaseHandle) -> None:
    if job.payload != b"fine":
        raise EXITS[job.payload.decode()]


async def leave_here(job: JobRecord, lease: LeaseHandle) -> None:
    leave(job, lease)


async def check_failures(queue: Queue, handler: Any, **options: Any) -> None:
    """Each attempt fails and is told by its name, and the others go on."""
    ids = [
        (await queue.enqueue("q", name.encode(), max_attempts=1)).id for name in (*EXITS, "fine")
    ]
    async with working(queue, handler, concurrency=2, **options):
        *dead, fine = await finish(queue, *ids)
    assert fine is None
    for name, job in zip(EXITS, dead, strict=True):
        assert job is not None
        assert job.last_error is not None
        assert f"{name}: usage: ..." in job.last_error or "StopIteration" in job.last_error


@pytest.mark.parametrize("on_cancel", ["notify", "interrupt"])
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("handler", [leave, leave_here], ids=["thread", "async"])
async def test_an_exit_fails_the_attempt(
    queue: Queue, handler: Any, timeout: int | None, on_cancel: str
) -> None:
    await check_failures(queue, handler, timeout=timeout, on_cancel=on_cancel)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreadPoolExecutor(2),
        lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")),
    ],
    ids=["threads", "processes"],
)
async def test_an_exit_in_an_executor_fails_the_attempt(
    queue: Queue, make: Callable[[], Executor]
) -> None:
    with make() as executor:
        await check_failures(queue, leave, executor=executor)


async def test_an_exit_does_not_hide_effects_of_others(queue: Queue) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        raise FailWith(SystemExit(3), SettlementEffects(kv_writes={"seen": b"yes"}))

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    async with working(queue, handle):
        (dead,) = await finish(queue, job_id)
    assert dead is not None
    assert dead.last_error == "SystemExit: 3"
    assert await queue.kv_get("seen") == b"yes"


CHILD = textwrap.dedent(
    """
    import asyncio, os, signal, sys, time
    from taquba import Queue, QueueConfig, run_worker

    async def busy(job, lease):
        print("started", flush=True)
        if job.payload == b"busy":
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                pass
        await asyncio.sleep(20)

    async def main():
        once = QueueConfig(max_attempts=1)
        async with Queue.open(sys.argv[1], fsync=False, default_config=once) as queue:
            await queue.enqueue("q", b"idle")
            await queue.enqueue("q", b"busy")
            if sys.argv[2] == "TERM":
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
            await run_worker(queue, "q", busy, concurrency=2)

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_exit_that_a_signal_sent_ends_the_program_and_spends_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It comes out of whichever handler runs at the moment."""
    store = tmp_path / "store"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store), number.name.removeprefix("SIG")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline() == "started\n"
        child.send_signal(number)
        if number is signal.SIGINT:
            # The first one asks the main task to end, which does not come to it.
            child.send_signal(number)
        try:
            assert child.wait(REAL_SECONDS) in (3, -signal.SIGINT, 1)
        finally:
            child.kill()

    async def left() -> tuple[int, int]:
        async with Queue.open(store, fsync=False) as queue:
            page = await queue.list_jobs("q", JobStatus.PENDING)
            return len(page.jobs), sum(job.attempts for job in page.jobs)

    assert asyncio.run(left()) == (2, 0)
