"""A queue refuses to be used after its end, and from where it does not belong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from taquba import (
    Claim,
    JobRecord,
    LeaseHandle,
    Producer,
    ProducerClosed,
    Queue,
    QueueClosed,
    WorkerSpec,
    WrongEventLoop,
    run_worker,
    run_workers,
)
from tests.crash.held_engine import hold_engine
from tests.guards import calls

METHODS = calls.public_methods()
SYNCHRONOUS = ["config", "next_job_id"]


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    async with Queue.open("memory://") as queue:
        yield queue


@pytest.fixture
async def claim(queue: Queue) -> Claim:
    await queue.enqueue("q", b"x")
    claim = await queue.claim("q")
    assert claim is not None
    return claim


async def nothing(job: JobRecord, lease: LeaseHandle) -> None:
    pass


def test_the_methods_are_found() -> None:
    assert {"enqueue", "claim", "ack", "renew_lease", "kv_scan", "dead_jobs"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
async def test_a_closed_queue_refuses_every_method(queue: Queue, claim: Claim, method: str) -> None:
    await queue.close()
    with pytest.raises(QueueClosed):
        await calls.result(queue, method, claim)


ASYNCHRONOUS = sorted(set(METHODS) - set(SYNCHRONOUS))


@pytest.mark.parametrize("method", ASYNCHRONOUS)
async def test_a_loop_around_a_refused_call_lets_others_run(
    queue: Queue, claim: Claim, method: str
) -> None:
    await queue.close()
    enough = asyncio.Event()
    asyncio.get_running_loop().call_soon(enough.set)
    for _ in range(1000):
        with contextlib.suppress(QueueClosed):
            await calls.result(queue, method, claim)
        if enough.is_set():
            break
    else:
        pytest.fail("nothing else ran meanwhile")


async def test_a_loop_around_a_closed_producer_lets_others_run(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store", inbox=True):
        producer = await Producer.open(tmp_path / "store")
        await producer.close()
    enough = asyncio.Event()
    asyncio.get_running_loop().call_soon(enough.set)
    while not enough.is_set():
        with pytest.raises(ProducerClosed):
            await producer.enqueue("q", b"")


async def test_a_closed_queue_refuses_workers(queue: Queue) -> None:
    await queue.close()
    with pytest.raises(QueueClosed):
        await run_worker(queue, "q", nothing)
    with pytest.raises(QueueClosed):
        await run_workers(queue, WorkerSpec("q", nothing), handle_signals=False)


def in_thread(call: Callable[[], object]) -> BaseException | None:
    """What `call` raises in a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the call hangs"
    return raised[0] if raised else None


@pytest.mark.parametrize("method", METHODS)
async def test_another_event_loop_is_refused(queue: Queue, claim: Claim, method: str) -> None:
    error = await asyncio.to_thread(
        in_thread, lambda: asyncio.run(calls.result(queue, method, claim))
    )
    assert isinstance(error, WrongEventLoop), error
    assert "run_coroutine_threadsafe" in str(error)
    # Nothing was done, and the queue works on.
    assert (await queue.stats("q")).claimed == 1
    await queue.ack(claim)


@pytest.mark.parametrize("method", SYNCHRONOUS)
async def test_another_thread_is_refused(queue: Queue, claim: Claim, method: str) -> None:
    error = await asyncio.to_thread(in_thread, lambda: calls.call(queue, method, claim))
    assert isinstance(error, WrongEventLoop)


async def test_workers_in_another_loop_are_refused(queue: Queue) -> None:
    error = await asyncio.to_thread(in_thread, lambda: asyncio.run(run_worker(queue, "q", nothing)))
    assert isinstance(error, WrongEventLoop)


async def test_closing_from_another_loop_is_refused(queue: Queue, claim: Claim) -> None:
    error = await asyncio.to_thread(in_thread, lambda: asyncio.run(queue.close()))
    assert isinstance(error, WrongEventLoop)
    await queue.ack(claim)
    closing = asyncio.ensure_future(queue.close())
    await asyncio.sleep(0)
    error = await asyncio.to_thread(in_thread, lambda: asyncio.run(queue.close()))
    assert error is None or isinstance(error, WrongEventLoop)
    await closing


async def test_a_queue_is_reached_from_a_thread_through_its_loop(queue: Queue) -> None:
    loop = asyncio.get_running_loop()

    def enqueue() -> str:
        future = asyncio.run_coroutine_threadsafe(queue.enqueue("q", b"x"), loop)
        return future.result(10).id

    job_id = await asyncio.to_thread(enqueue)
    assert await queue.get_job(job_id) is not None


# -- closing ----------------------------------------------------------------------------------


async def test_closing_twice_and_at_the_same_time_is_fine(tmp_path: Path) -> None:
    queue = await Queue.open(tmp_path)
    job = await queue.enqueue("q", b"x")
    await asyncio.gather(*(queue.close() for _ in range(5)))
    await queue.close()
    async with Queue.open(tmp_path) as queue:
        assert await queue.get_job(job.id) is not None


async def test_leaving_the_context_after_closing_is_fine() -> None:
    async with Queue.open("memory://") as queue:
        await queue.close()


async def test_a_cancelled_close_goes_on(tmp_path: Path) -> None:
    queue = await Queue.open(tmp_path)
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await queue.close()
    with pytest.raises(QueueClosed):
        await queue.stats("q")


async def test_whoever_waits_is_told_that_the_queue_closes() -> None:
    queue = await Queue.open("memory://")
    job = await queue.enqueue("held", b"x")
    started = asyncio.Event()

    async def hold(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        await asyncio.Event().wait()

    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(call)
        for call in (
            queue.claim("q", wait=60),
            queue.wait_for_jobs_on("a", "b", timeout=60),
            queue.wait_for_completion(job.id, timeout=60),
            run_worker(queue, "empty", nothing, poll_interval=60),
            run_worker(queue, "held", hold, poll_interval=60),
        )
    ]
    await started.wait()
    await asyncio.wait_for(queue.close(), 5)
    done, late = await asyncio.wait(waiting, timeout=2)
    assert not late
    assert all(isinstance(call.exception(), QueueClosed) for call in done)


async def test_what_was_called_before_closing_lands_and_is_acknowledged(tmp_path: Path) -> None:
    queue = await Queue.open(tmp_path)
    calls = [asyncio.ensure_future(queue.enqueue("q", b"x")) for _ in range(20)]
    await asyncio.sleep(0)
    await queue.close()
    ids = [(await call).id for call in calls]
    async with Queue.open(tmp_path) as queue:
        for job_id in ids:
            assert await queue.get_job(job_id) is not None


async def test_a_job_that_lands_while_the_queue_closes_is_not_hidden(tmp_path: Path) -> None:
    """The claim-scan state of a clean close must hold for every job that was acknowledged."""
    url = f"memory://{tmp_path}"
    queue = await Queue.open(url)
    await queue.enqueue("q", b"last", priority=10_000)
    held = hold_engine(queue, timeout=10)
    held.hold("get")
    # This one reads the store before it commits, so it overlaps with the close.
    late = asyncio.ensure_future(queue.enqueue("q", b"first", priority=1, dedup_key="key"))
    await held.reached("get")
    held.hold("write")
    writes = held.calls["write"]
    closing = asyncio.ensure_future(queue.close())
    await held.reached("write", writes + 1)
    held.release("get")
    await asyncio.sleep(0.05)
    held.release("write")
    await closing
    (result,) = await asyncio.gather(late, return_exceptions=True)
    async with Queue.open(url) as queue:
        claims = await queue.claim_batch("q", 20)
        assert (await queue.stats("q")).pending == 0
        if isinstance(result, BaseException):
            assert isinstance(result, QueueClosed)
            assert [claim.payload for claim in claims] == [b"last"]
        else:
            assert [claim.payload for claim in claims] == [b"first", b"last"]
