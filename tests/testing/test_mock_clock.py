from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import InvalidArgument, InvalidArgumentType, JobRecord, LeaseHandle, Queue, run_worker
from taquba.testing import MockClock
from tests.queue.support import OpenQueue, must_claim
from tests.worker.support import working


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = MockClock()
    start = clock.now()
    await asyncio.sleep(0.005)
    assert clock.now() == start
    await clock.advance(1.5)
    assert clock.now() == start + timedelta(seconds=1.5)
    await clock.advance(timedelta(days=1))
    assert clock.now() == start + timedelta(days=1, seconds=1.5)
    assert clock.time_ms() == round(clock.now().timestamp() * 1000)


def test_the_start_can_be_chosen() -> None:
    start = datetime(1999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    assert MockClock(start).now() == start
    assert MockClock().now() == datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidArgument, match=r"start.*naive"):
        MockClock(datetime(2030, 1, 1))  # noqa: DTZ001 - what is to be refused


@pytest.mark.parametrize("duration", [-1, timedelta(seconds=-1), float("nan")])
async def test_time_does_not_go_back(duration: float | timedelta) -> None:
    clock = MockClock()
    with pytest.raises(InvalidArgument, match="duration"):
        await clock.advance(duration)
    with pytest.raises(InvalidArgumentType, match="duration"):
        await clock.advance("1")  # type: ignore[arg-type]


async def test_timers_run_in_order_at_their_time() -> None:
    clock = MockClock()
    start = clock.monotonic_ms()
    fired: list[tuple[str, int]] = []

    def timer(name: str) -> None:
        fired.append((name, clock.monotonic_ms() - start))

    clock.call_later(300, lambda: timer("late"))
    clock.call_later(100, lambda: timer("early"))
    clock.call_at(clock.time_ms() + 200, 50, lambda: timer("wall"))
    clock.call_later(100, lambda: timer("early too"))
    cancelled = clock.call_later(150, lambda: timer("cancelled"))
    cancelled.cancel()
    await clock.advance(0.25)
    assert fired == [("early", 100), ("early too", 100), ("wall", 200)]
    await clock.advance(0.05)
    assert fired[-1] == ("late", 300)
    cancelled.cancel()


async def test_a_timer_set_by_a_timer_runs_within_the_same_advance() -> None:
    clock = MockClock()
    start = clock.monotonic_ms()
    fired: list[int] = []

    def again() -> None:
        fired.append(clock.monotonic_ms() - start)
        clock.call_later(1000, again)

    clock.call_later(1000, again)
    await clock.advance(3.5)
    assert fired == [1000, 2000, 3000]


async def test_a_timer_that_is_due_at_once_runs_in_the_next_turn() -> None:
    clock = MockClock()
    fired: list[str] = []
    clock.call_later(0, lambda: fired.append("now"))
    clock.call_at(clock.time_ms() - 5, 50, lambda: fired.append("past"))
    assert fired == []
    await asyncio.sleep(0)
    assert fired == ["now", "past"]


async def test_advances_that_overlap_never_turn_time_back() -> None:
    clock = MockClock()
    start = clock.now()
    seen: list[datetime] = []
    for ms in range(0, 12_000, 500):
        clock.call_later(ms, lambda: seen.append(clock.now()))
    await asyncio.gather(clock.advance(10), clock.advance(1), clock.advance(4))
    assert seen == sorted(seen)
    assert clock.now() >= start + timedelta(seconds=10)


async def test_everything_that_became_due_has_run_when_advance_returns(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    """A chain over several parts of two queues, each link due at another time."""
    one, two = await open_queue(), await open_queue()

    async def pass_on(job: JobRecord, lease: LeaseHandle) -> None:
        await two.enqueue("second", job.payload, delay=10)

    async def finish(job: JobRecord, lease: LeaseHandle) -> None:
        await two.kv_put("finished", job.payload)

    loops = [
        asyncio.create_task(run_worker(one, "first", pass_on)),
        asyncio.create_task(run_worker(two, "second", finish)),
    ]
    await one.enqueue("first", b"!", delay=10)
    await mock_clock.advance(19.999)
    assert await two.kv_get("finished") is None
    await mock_clock.advance(0.001)
    assert await two.kv_get("finished") == b"!"
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)


async def test_deadlines_on_the_way_are_met_in_their_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    start = mock_clock.now()
    await queue.enqueue("q", b"", delay=5, job_id="a", max_attempts=2)
    waiter = asyncio.create_task(queue.claim("q", lease=7, wait=60))
    await mock_clock.advance(3600)
    claim = await waiter
    assert claim is not None
    assert claim.claimed_at == start + timedelta(seconds=5)
    (entry,) = await queue.attempt_history("a")
    assert entry.recorded_at == start + timedelta(seconds=12)
    assert (await must_claim(queue)).attempts == 2


async def test_handlers_sleep_on_the_loop_not_on_the_clock(
    queue: Queue, mock_clock: MockClock
) -> None:
    """Virtual time moves what is taquba's; a handler's own sleep stays real."""
    done = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        await asyncio.sleep(0.01)
        done.set()

    await queue.enqueue("q", b"")
    loop = asyncio.create_task(run_worker(queue, "q", handle))
    await mock_clock.advance(60)
    await done.wait()
    loop.cancel()
    await asyncio.wait([loop])


async def test_a_year_passes_quickly(queue: Queue, mock_clock: MockClock) -> None:
    await queue.enqueue("q", b"", delay=timedelta(days=364))
    started = asyncio.get_running_loop().time()
    await mock_clock.advance(timedelta(days=365))
    assert asyncio.get_running_loop().time() - started < 5
    assert (await queue.stats("q")).pending == 1


async def test_setting_the_wall_clock_forwards_makes_what_waits_for_a_time_due(
    queue: Queue, mock_clock: MockClock
) -> None:
    start, monotonic = mock_clock.now(), mock_clock.monotonic_ms()
    await queue.enqueue("q", b"", delay=600)
    await mock_clock.set_time(start + timedelta(minutes=9))
    assert await queue.claim("q") is None
    await mock_clock.set_time(start + timedelta(minutes=11))
    assert mock_clock.now() == start + timedelta(minutes=11)
    claim = await must_claim(queue)
    # Nothing but the wall clock moved.
    assert mock_clock.monotonic_ms() == monotonic
    assert await queue.lease_expiry(claim) == mock_clock.now() + timedelta(seconds=30)


async def test_setting_the_wall_clock_back_puts_off_what_waits_for_a_time(
    queue: Queue, mock_clock: MockClock
) -> None:
    start = mock_clock.now()
    await queue.enqueue("q", b"", delay=600)
    await mock_clock.set_time(start - timedelta(hours=1))
    await mock_clock.advance(3600 + 599)
    assert await queue.claim("q") is None
    await mock_clock.advance(1)
    assert (await must_claim(queue)).claimed_at == start + timedelta(minutes=10)


async def test_durations_do_not_feel_the_wall_clock_being_set(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", b"")
    await must_claim(queue, lease=60)
    for hours in (5, -10):
        await mock_clock.set_time(mock_clock.now() + timedelta(hours=hours))
        assert await queue.claim("q") is None
    await mock_clock.advance(60)
    assert (await must_claim(queue)).attempts == 2


async def test_timers_for_a_time_end_early_when_the_clock_is_set_back(
    mock_clock: MockClock,
) -> None:
    fired: list[str] = []
    mock_clock.call_at(mock_clock.time_ms() + 60_000, 1000, lambda: fired.append("wall"))
    mock_clock.call_later(60_000, lambda: fired.append("later"))
    await mock_clock.set_time(mock_clock.now() + timedelta(seconds=30))
    assert fired == []
    await mock_clock.set_time(mock_clock.now() - timedelta(seconds=5))
    assert fired == ["wall"]
    await mock_clock.advance(60)
    assert fired == ["wall", "later"]


async def test_a_handler_that_reads_the_store_runs_to_its_end_within_an_advance(
    queue: Queue, mock_clock: MockClock
) -> None:
    read: list[int] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        for number in range(200):
            await queue.kv_get("x")
            read.append(number)

    async with working(queue, handle):
        await queue.enqueue("q", b"", delay=5)
        await mock_clock.advance(5)
        assert len(read) == 200


async def test_a_handler_that_writes_objects_runs_to_its_end_within_an_advance(
    open_queue: OpenQueue, mock_clock: MockClock, tmp_path: Path
) -> None:
    queue = await open_queue(tmp_path)
    written: list[str] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        for number in range(20):
            await queue.objects.put(f"part/{number}", b"x")
            assert await queue.objects.get(f"part/{number}") == b"x"
            written.append(job.id)

    async with working(queue, handle):
        await queue.enqueue("q", b"", delay=5)
        await mock_clock.advance(5)
        assert len(written) == 20
