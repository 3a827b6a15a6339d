"""What packages that are built on a queue share."""

from __future__ import annotations

import asyncio
import logging

import pytest

from taquba import InvalidArgument, Queue
from taquba.extending import RunsInBackground, locks_of, seen_through
from tests.crash.held_engine import hold_engine
from tests.queue.support import OpenQueue


class Loop(RunsInBackground):
    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.ended = False

    async def run(self, shutdown: asyncio.Event | None = None) -> None:
        assert shutdown is not None
        if self.failure is not None:
            raise self.failure
        await shutdown.wait()
        self.ended = True


async def test_locks_of_a_queue_are_shared_and_those_of_another_are_not(
    queue: Queue, open_queue: OpenQueue
) -> None:
    other = await open_queue()
    with await locks_of(queue).acquire([("me", "a")]):
        assert locks_of(queue).any_held([("me", "a")])
        assert not locks_of(other).any_held([("me", "a")])
    assert locks_of(queue).idle


async def test_holders_of_one_name_take_turns(queue: Queue) -> None:
    seen: list[str] = []

    async def decide(who: str) -> None:
        with await locks_of(queue).acquire([("me", "a")]):
            seen.append(who)
            await asyncio.sleep(0)
            seen.append(who)

    await asyncio.gather(decide("one"), decide("two"))
    assert seen == ["one", "one", "two", "two"]


async def test_what_an_entry_holds_is_waited_for_until_it_is_durable(queue: Queue) -> None:
    held = hold_engine(queue, timeout=20)
    await queue.kv_put("old", b"")
    held.hold("flush")
    writing = asyncio.create_task(queue.kv_put("new", b""))
    await held.reached("flush", held.calls["flush"] + 1)
    assert await queue.kv_get("old", durable=True) == b""
    waiting = asyncio.create_task(queue.kv_get("new", durable=True))
    assert not (await asyncio.wait([writing, waiting], timeout=0.1))[0]
    held.release()
    await waiting
    await writing


async def test_what_is_seen_through_goes_on_when_its_caller_is_cancelled() -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    caller = asyncio.create_task(seen_through(work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_loop_runs_as_long_as_its_block_and_can_run_again() -> None:
    loop = Loop()
    for _ in range(2):
        loop.ended = False
        async with loop:
            with pytest.raises(InvalidArgument, match="Loop is already running"):
                await loop.__aenter__()
            assert not loop.ended
        assert loop.ended


async def test_what_ended_a_loop_is_raised_where_its_block_ends() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        async with Loop(RuntimeError("broken")):
            await asyncio.sleep(0)


async def test_what_ended_a_loop_is_logged_where_its_block_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def failing_block() -> None:
        async with Loop(RuntimeError("broken")):
            await asyncio.sleep(0)
            raise KeyError("mine")

    with caplog.at_level(logging.ERROR, "taquba.extending"), pytest.raises(KeyError, match="mine"):
        await failing_block()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "broken"


async def test_a_cancelled_block_cancels_its_loop() -> None:
    loop = Loop()
    entered = asyncio.Event()

    async def block() -> None:
        async with loop:
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not loop.ended
