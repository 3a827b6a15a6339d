"""Walks, parking, expiries and named values: what the packages on a queue share."""

from __future__ import annotations

import asyncio
import logging

import pytest

from taquba import JobRecord, LeaseHandle, Queue, StoreError, TaqubaError
from taquba.extending import together, until_one_ends
from taquba.extending.expiries import Expiries, Expiry, Sweeper, expiry_key
from taquba.extending.parking import parked, parked_jobs, too_new
from taquba.extending.times import from_ms, later, to_ms
from taquba.extending.walks import pages
from taquba.testing import MockClock, drain

MINUTE = 60_000


async def keys(queue: Queue, prefix: str) -> list[str]:
    found = pages(lambda cursor: queue.kv_scan(prefix, cursor, 2))
    return [entry.key async for page in found for entry in page.entries]


async def test_a_walk_comes_to_every_page(queue: Queue) -> None:
    for number in range(5):
        await queue.kv_put(f"n/{number}", b"")
    assert await keys(queue, "n/") == [f"n/{number}" for number in range(5)]
    assert await keys(queue, "nothing/") == []


async def test_parked_jobs_are_found_and_their_attempts_are_unspent(queue: Queue) -> None:
    async def handler(job: JobRecord, lease: LeaseHandle) -> None:
        raise too_new(2, "job 'x'", 1) if job.payload == b"new" else parked("nobody knows it")

    for payload in (b"new", b"odd"):
        await queue.enqueue("jobs", payload)
    await queue.enqueue("jobs", b"later", delay=60)
    assert await drain(queue, "jobs", handler) == 2
    found = [job async for job in parked_jobs(queue, "jobs")]
    assert sorted((job.last_error or "", job.attempts) for job in found) == [
        ("parked: it has version 2, but job 'x' has version 1 here", 0),
        ("parked: nobody knows it", 0),
    ]


class Forgetful:
    """Forgets what is due, and counts its failures before."""

    def __init__(self, queue: Queue, failures: int = 0) -> None:
        self.queue = queue
        self.failures = failures
        self.forgotten: list[str] = []
        self.expiries = Expiries(queue, "mine/", "the test")

    async def sweep(self) -> int | None:
        if self.failures:
            self.failures -= 1
            raise StoreError("not now")
        return await self.expiries.sweep(self.forget)

    async def forget(self, expiry: Expiry) -> None:
        self.forgotten.append(expiry.what)
        await self.queue.kv_delete(expiry.key)


async def test_a_sweep_forgets_what_is_due_and_tells_when_the_next_is(
    queue: Queue, mock_clock: MockClock
) -> None:
    now = mock_clock.time_ms()
    mine = Forgetful(queue)
    for number in range(3):
        await queue.kv_put(expiry_key("mine/", now + number * MINUTE, str(number)), b"")
    assert await mine.sweep() == now + MINUTE
    assert mine.forgotten == ["0"]
    await mock_clock.advance(120)
    assert await mine.sweep() is None
    assert mine.forgotten == ["0", "1", "2"]


@pytest.mark.parametrize("odd", ["mine/odd", "mine/17/x", "mine/00000000000001"])
async def test_a_sweep_leaves_and_names_what_is_none_of_its_entries(
    queue: Queue, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    await queue.kv_put(odd, b"")
    with caplog.at_level(logging.WARNING):
        assert await Forgetful(queue).sweep() is None
    assert f"the entry {odd!r} does not belong to the test" in caplog.text
    assert await keys(queue, "mine/") == [odd]


async def test_a_sweeper_comes_in_time_and_again_after_a_failure(
    queue: Queue, mock_clock: MockClock
) -> None:
    mine = Forgetful(queue, failures=1)
    sweeper = Sweeper(mock_clock, mine.sweep, "could not forget")
    running = asyncio.create_task(sweeper.run())
    try:
        await mock_clock.advance(1)
        due = mock_clock.time_ms() + MINUTE
        await queue.kv_put(expiry_key("mine/", due, "late"), b"")
        sweeper.note(due)
        await mock_clock.advance(59)
        assert mine.forgotten == []
        await mock_clock.advance(1)
        assert mine.forgotten == ["late"]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_runs_together_ends_together() -> None:
    ended: list[str] = []

    async def last(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("first")

    async def number(value: int) -> int:
        return value

    assert await together(number(value) for value in range(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="first"):
        await together([last("a"), fails(), last("b")])
    assert sorted(ended) == ["a", "b"]


async def test_times_are_stored_to_the_millisecond(mock_clock: MockClock) -> None:
    now = mock_clock.now()
    assert from_ms(to_ms(now)) == now
    assert to_ms(later(now, 0.25, "delay")) == to_ms(now) + 250


def task_named(name: str) -> asyncio.Task[object]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == name)


async def forever(ended: list[str] | None = None) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        if ended is not None:
            # Its clean-up is waited for.
            await asyncio.sleep(0)
            ended.append("ended")


async def test_a_task_that_was_cancelled_from_outside_is_no_result_of_what_runs_together() -> None:
    running = asyncio.create_task(together([forever()]))
    await asyncio.sleep(0)
    (child,) = asyncio.all_tasks() - {running, asyncio.current_task()}
    child.cancel()
    with pytest.raises(TaqubaError, match="was cancelled from outside"):
        await running


async def test_the_end_of_one_loop_ends_the_others() -> None:
    async def returns() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        raise ValueError("broken")

    ended: list[str] = []
    await until_one_ends({"one": returns(), "other": forever(ended)})
    with pytest.raises(ValueError, match="broken"):
        await until_one_ends({"one": forever(ended), "other": fails()})
    assert ended == ["ended", "ended"]


async def test_a_loop_that_is_cancelled_from_outside_is_a_failure() -> None:
    running = asyncio.create_task(until_one_ends({"one": forever(), "other": forever()}))
    await asyncio.sleep(0)
    task_named("other").cancel()
    with pytest.raises(TaqubaError, match="'other' was cancelled from outside"):
        await running


async def test_loops_end_before_whoever_cancels_them_goes_on() -> None:
    ended: list[str] = []
    running = asyncio.create_task(until_one_ends({"one": forever(ended), "other": forever(ended)}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["ended", "ended"]
