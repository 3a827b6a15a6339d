"""An answer that says something of the store, and not only what it did, is true after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from taquba import (
    CancelOutcome,
    DuplicateJobId,
    EnqueueResult,
    InvalidState,
    JobNotFound,
    Queue,
    QueueConfig,
    StoreError,
    WaitStatus,
    WakeOutcome,
)
from tests.crash.held_engine import HeldEngine, hold_engine
from tests.queue.support import must_claim


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    async with Queue.open("memory://", default_config=QueueConfig(max_attempts=1)) as queue:
        yield queue


@pytest.fixture
def held(queue: Queue) -> Iterator[HeldEngine]:
    held = hold_engine(queue, timeout=20)
    yield held
    held.release()


Step = Callable[[Queue], Awaitable[object]]


async def ack(queue: Queue) -> None:
    await queue.ack(await must_claim(queue))


async def nack(queue: Queue) -> None:
    await queue.nack(await must_claim(queue), "no luck")


async def prepared(queue: Queue) -> None:
    """What the changes below change: a pending job, and an entry."""
    await queue.enqueue("q", b"x", job_id="own", dedup_key="key")
    await queue.kv_put("entry", b"1")


async def duplicate(queue: Queue) -> str:
    with pytest.raises(DuplicateJobId) as caught:
        await queue.enqueue("q", b"x", job_id="new")
    return caught.value.job_id


async def requeued(queue: Queue) -> type[Exception]:
    with pytest.raises((JobNotFound, InvalidState)) as caught:
        await queue.requeue_dead("own")
    return caught.type


async def waited(queue: Queue) -> WaitStatus:
    return (await queue.wait_for_completion("own", 60)).status


async def enqueued(queue: Queue) -> EnqueueResult:
    return await queue.enqueue("q", b"x", dedup_key="new")


CASES: dict[str, tuple[Step, Step, object]] = {
    "cancel, of an acknowledged job": (
        ack,
        lambda queue: queue.cancel("own"),
        CancelOutcome.NOT_FOUND,
    ),
    "cancel, of a dead job": (nack, lambda queue: queue.cancel("own"), CancelOutcome.NOT_FOUND),
    "wake, of an acknowledged job": (
        ack,
        lambda queue: queue.wake_scheduled("own"),
        WakeOutcome.NOT_FOUND,
    ),
    "wake, of a dead job": (
        nack,
        lambda queue: queue.wake_scheduled("own"),
        WakeOutcome.NOT_SCHEDULED,
    ),
    "requeue, of a removed job": (lambda queue: queue.cancel("own"), requeued, JobNotFound),
    "wait, for an acknowledged job": (ack, waited, WaitStatus.NOT_FOUND),
    "wait, for a dead job": (nack, waited, WaitStatus.COMPLETED),
    "compare-put, of a changed entry": (
        lambda queue: queue.kv_put("entry", b"2"),
        lambda queue: queue.kv_compare_put("entry", b"1", b"3"),
        False,
    ),
    "compare-put, of a new entry": (
        lambda queue: queue.kv_put("new", b"2"),
        lambda queue: queue.kv_compare_put("new", None, b"3"),
        False,
    ),
    "compare-delete, of a deleted entry": (
        lambda queue: queue.kv_delete("entry"),
        lambda queue: queue.kv_compare_delete("entry", b"1"),
        False,
    ),
    "an own id, twice": (
        lambda queue: queue.enqueue("q", b"x", job_id="new"),
        duplicate,
        "new",
    ),
    "a dedup key, twice": (
        lambda queue: queue.enqueue("q", b"x", job_id="first", dedup_key="new"),
        enqueued,
        EnqueueResult("first", False),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_waits_until_what_it_says_is_durable(
    queue: Queue, held: HeldEngine, case: str
) -> None:
    change, ask, answer = CASES[case]
    await prepared(queue)
    held.hold("flush")
    changing = asyncio.ensure_future(change(queue))
    await held.reached("flush", held.calls["flush"] + 1)
    asking = asyncio.ensure_future(ask(queue))
    done, _ = await asyncio.wait([changing, asking], timeout=0.1)
    assert not done
    held.release()
    async with asyncio.timeout(10):
        await changing
        assert await asking == answer


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_that_is_durable_already_waits_for_no_flush(
    queue: Queue, held: HeldEngine, case: str
) -> None:
    change, ask, answer = CASES[case]
    await prepared(queue)
    await change(queue)
    held.hold("flush")
    other = asyncio.ensure_future(queue.kv_put("other", b"1"))
    await held.reached("flush", held.calls["flush"] + 1)
    async with asyncio.timeout(10):
        assert await ask(queue) == answer
    assert not other.done()
    held.release()
    await other


async def test_an_answer_waits_for_the_flush_under_way_and_for_no_other(
    queue: Queue, held: HeldEngine
) -> None:
    await prepared(queue)
    held.hold("flush")
    putting = asyncio.ensure_future(queue.kv_put("entry", b"2"))
    flushes = held.calls["flush"] + 1
    await held.reached("flush", flushes)
    asking = asyncio.ensure_future(queue.kv_compare_put("entry", b"1", b"3"))
    done, _ = await asyncio.wait([asking], timeout=0.05)
    assert not done
    held.release()
    async with asyncio.timeout(10):
        assert not await asking
        await putting
    assert held.calls["flush"] == flushes


async def test_the_queue_is_busy_while_an_answer_waits_for_a_flush_that_nobody_wanted(
    queue: Queue, held: HeldEngine
) -> None:
    job_id = (await queue.enqueue("q", b"x")).id
    held.hold("flush")
    # Nobody waits for the claim, nor for the dead letter that it becomes when its lease expires.
    await queue.claim("q", lease=0.001)
    flushes = held.calls["flush"]
    await asyncio.sleep(0.002)
    await queue.reap_now()
    await held.reached("flush", flushes + 1)
    assert not queue._owner.committer.busy
    asking = asyncio.ensure_future(queue.cancel(job_id))
    done, _ = await asyncio.wait([asking], timeout=0.05)
    assert not done
    assert queue._owner.committer.busy
    held.release()
    async with asyncio.timeout(10):
        assert await asking is CancelOutcome.NOT_FOUND
        await queue._owner.committer._idle.wait()


async def test_what_was_applied_during_a_flush_is_answered_after_the_next(
    queue: Queue, held: HeldEngine
) -> None:
    await prepared(queue)
    held.hold("flush")
    flushes = held.calls["flush"]
    first = asyncio.ensure_future(queue.kv_put("other", b"1"))
    await held.reached("flush", flushes + 1)
    second = asyncio.ensure_future(queue.kv_put("entry", b"2"))
    await held.reached("written", held.calls["written"] + 1)
    async with asyncio.timeout(10):
        asking = asyncio.ensure_future(queue.kv_compare_put("entry", b"1", b"3"))
        held.release("flush")
        held.hold("flush")
        await first
        await held.reached("flush", flushes + 2)
        done, _ = await asyncio.wait([second, asking], timeout=0.05)
        assert not done
        held.release()
        await second
        assert not await asking


async def test_an_answer_is_not_durable_where_the_flush_has_failed(
    queue: Queue, held: HeldEngine
) -> None:
    await prepared(queue)

    async def fail() -> None:
        raise StoreError("no luck")

    held.before["flush"] = fail
    with pytest.raises(StoreError):
        await queue.kv_put("entry", b"2")
    with pytest.raises(StoreError):
        await queue.kv_compare_put("entry", b"1", b"3")
    del held.before["flush"]
    assert not await queue.kv_compare_put("entry", b"1", b"3")
