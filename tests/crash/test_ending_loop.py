"""The end of an event loop cancels all tasks: an owner writes what is left, and closes at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    JobRecord,
    LeaseHandle,
    Producer,
    Queue,
    QueueConfig,
    StoreError,
    WorkerSpec,
    run_worker,
    run_workers,
)
from tests.crash.held_engine import hold_engine
from tests.servers.faulty_s3 import FaultyS3

pytestmark = pytest.mark.filterwarnings(
    # Of the task of the program that raised: nobody asks for what it came to.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

AT_ONCE = 8.0
"""Seconds, on a loaded machine: 30 is what is waited for a store that does not answer."""


class Broken(Exception):
    """The program's own."""


async def fail() -> None:
    raise Broken


async def exit_in_a_task() -> None:
    async def leave() -> None:
        sys.exit(3)

    leaving = asyncio.create_task(leave())
    await asyncio.wait([leaving])


async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(60)


async def exit_by_signal() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(60)


async def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)


ENDS = [fail, exit_in_a_task, exit_in_a_callback, exit_by_signal, interrupt]


ENDED: list[float] = []


async def come_to(end: Callable[[], Awaitable[None]]) -> None:
    ENDED.append(time.monotonic())
    await end()


def run_to_its_end(main: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Run a program that does not end well; how long it takes from the moment it is to end."""
    ENDED.clear()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        asyncio.run(main())
    except (Broken, SystemExit, KeyboardInterrupt):
        pass
    else:
        pytest.fail("it ended well")
    finally:
        signal.signal(signal.SIGUSR1, before)
    return time.monotonic() - ENDED[0]


def on_a_faulty_bucket(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[FaultyS3], Coroutine[Any, Any, None]]
) -> float:
    """Run a program that does not end well beside a bucket; when it ended."""
    with FaultyS3() as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        run_to_its_end(lambda: main(s3))
        ended = time.monotonic()
        s3.faults.clear()
    return ended


async def jobs_of(store: Path) -> list[tuple[bytes, int, str]]:
    async with Queue.open(store, fsync=False) as queue:
        stats = await queue.stats("q")
        assert stats.claimed == 0
        pages = [await queue.list_jobs("q", status) for status in ("pending", "dead")]
        return sorted(
            (job.payload, job.attempts, job.status.value) for page in pages for job in page.jobs
        )


@pytest.mark.parametrize("end", ENDS)
def test_an_owner_closes_at_once_and_loses_nothing(
    tmp_path: Path, end: Callable[[], Awaitable[None]]
) -> None:
    store = tmp_path / "store"

    async def main() -> None:
        async with Queue.open(store, fsync=False) as queue:
            await queue.enqueue("q", b"acknowledged")
            late = asyncio.create_task(queue.enqueue("q", b"on its way"))
            await asyncio.sleep(0)
            assert not late.done()
            await come_to(end)

    assert run_to_its_end(main) < AT_ONCE
    assert asyncio.run(jobs_of(store)) == [
        (b"acknowledged", 0, "pending"),
        (b"on its way", 0, "pending"),
    ]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("several", [False, True], ids=["run_worker", "run_workers"])
def test_jobs_that_run_at_the_end_go_back_unspent(
    tmp_path: Path, end: Callable[[], Awaitable[None]], several: bool
) -> None:
    store = tmp_path / "store"

    async def main() -> None:
        started = asyncio.Queue[str]()

        async def handle(job: JobRecord, lease: LeaseHandle) -> None:
            started.put_nowait(job.id)
            await asyncio.sleep(60)

        once = QueueConfig(max_attempts=1)
        async with Queue.open(store, fsync=False, default_config=once) as queue:
            for number in range(3):
                await queue.enqueue("q", str(number).encode())
            if several:
                spec = WorkerSpec("q", handle, concurrency=3)
                background = run_workers(queue, spec, handle_signals=False)
            else:
                background = run_worker(queue, "q", handle, concurrency=3)
            working = asyncio.create_task(background)
            for _ in range(3):
                await started.get()
            # What it raises, because its queue is closed, is not asked for.
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            await come_to(end)

    assert run_to_its_end(main) < AT_ONCE
    assert asyncio.run(jobs_of(store)) == [(str(n).encode(), 0, "pending") for n in range(3)]


@pytest.mark.parametrize("end", ENDS)
def test_an_owner_with_an_inbox_and_a_socket_closes_at_once(
    tmp_path: Path, end: Callable[[], Awaitable[None]]
) -> None:
    store = tmp_path / "store"

    async def main() -> None:
        async with (
            Queue.open(store, fsync=False, inbox=True, producer_socket=True, heartbeat_interval=1),
            Producer.open(store, fsync=False) as producer,
        ):
            await producer.enqueue("q", b"acknowledged")
            await come_to(end)

    assert run_to_its_end(main) < AT_ONCE
    assert asyncio.run(jobs_of(store)) == [(b"acknowledged", 0, "pending")]


def test_a_store_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[BaseException | None] = []

    async def main() -> None:
        async with Queue.open(tmp_path / "store", fsync=False) as queue:
            held = hold_engine(queue, timeout=60)
            held.hold("write")

            async def wait() -> None:
                # Nobody cancels what it waits for.
                future = queue._owner.committer.submit(transaction_of(queue), durable=True)
                future.add_done_callback(lambda done: told.append(done.exception()))
                await asyncio.sleep(60)

            waiting = asyncio.create_task(wait())
            await held.reached("write")
            await come_to(exit_in_a_callback)
            waiting.cancel()

    assert run_to_its_end(main) < AT_ONCE
    (error,) = told
    assert isinstance(error, StoreError)
    assert "the event loop ended" in str(error)
    assert "the event loop ended" in caplog.text


WITHIN_A_SECOND = 1.6
"""Seconds: one, and what a loaded machine adds."""


@pytest.mark.parametrize("held", ["commits", "nothing to write", "a listing", "a removal"])
def test_a_bucket_that_does_not_answer_is_left_within_a_second_in_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, held: str
) -> None:
    closing: list[float] = []

    async def main(s3: FaultyS3) -> None:
        queue = await Queue.open("s3://bucket/store", inbox=True, producer_socket=True)
        try:
            await queue.enqueue("q", b"acknowledged")
            s3.faults.add("silent")
            match held:
                case "commits":
                    late = asyncio.create_task(queue.enqueue("q", b"on its way"))
                    late.add_done_callback(lambda done: done.cancelled() or done.exception())
                case "a listing":
                    listing = asyncio.ensure_future(anext(queue.objects.list("")))  # type: ignore[arg-type]
                    listing.add_done_callback(lambda done: done.cancelled() or done.exception())
                case "a removal":
                    queue._owner.payloads.discard(["of a job"])
            await asyncio.sleep(0.1)
            await come_to(exit_in_a_callback)
        finally:
            closing.append(time.monotonic())
            await queue.close()

    assert on_a_faulty_bucket(monkeypatch, main) - closing[0] < WITHIN_A_SECOND
    assert "the event loop ended" in caplog.text


def test_a_close_under_way_is_cut_short_when_the_loop_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(s3: FaultyS3) -> None:
        queue = await Queue.open("s3://bucket/store")
        await queue.enqueue("q", b"acknowledged")
        s3.faults.add("silent")
        closing = asyncio.create_task(queue.close())
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0.3)
        await come_to(exit_in_a_callback)

    assert on_a_faulty_bucket(monkeypatch, main) - ENDED[0] < WITHIN_A_SECOND


def test_a_producer_whose_bucket_does_not_answer_is_left_within_a_second_in_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closing: list[float] = []

    async def main(s3: FaultyS3) -> None:
        async with Queue.open("s3://bucket/store", inbox=True):
            pass
        producer = await Producer.open("s3://bucket/store")
        try:
            await producer.enqueue("q", b"acknowledged")
            s3.faults.add("silent")
            for _ in range(3):
                late = asyncio.create_task(producer.enqueue("q", bytes(1_000_000)))
                late.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.sleep(0.1)
            await come_to(exit_in_a_callback)
        finally:
            closing.append(time.monotonic())
            await producer.close()

    assert on_a_faulty_bucket(monkeypatch, main) - closing[0] < WITHIN_A_SECOND
    assert "the event loop ended" in caplog.text


def transaction_of(queue: Queue) -> Any:
    from taquba._store.transaction import Transaction

    transaction = Transaction()
    transaction.put(b"U/late", b"")
    return transaction


# -- tasks that are cancelled while the loop goes on --------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["writer", "flusher", "scheduler", "reaper", "retention", "orphan-sweep", "engine-watch"],
)
async def test_a_queue_whose_task_is_cancelled_fails_at_once(name: str) -> None:
    queue = await Queue.open("memory://")
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == f"taquba-{name}"]
    waiting = asyncio.create_task(queue.claim("q", wait=1000))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(AT_ONCE):
        await asyncio.wait([task])
        with pytest.raises(StoreError, match=r"cancelled.*open it again"):
            await waiting
        with pytest.raises(StoreError, match=r"cancelled.*open it again"):
            await queue.enqueue("q", b"")
        await queue.close()


async def test_closing_goes_on_where_it_was_cancelled(tmp_path: Path) -> None:
    queue = await Queue.open(tmp_path / "store", fsync=False)
    await queue.enqueue("q", b"")
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([closing])
    await queue.close()
    assert len(await jobs_of(tmp_path / "store")) == 1
