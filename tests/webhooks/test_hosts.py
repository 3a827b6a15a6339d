"""The limit per host, and how long deliveries beyond it wait."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue, QueueConfig, Snooze, run_worker
from taquba.testing import MockClock, OpenQueue
from taquba_webhooks import WebhookRequest, WebhookWorker, enqueue_webhook
from taquba_webhooks._hosts import HostLimits
from tests.webhooks.support import REAL_SECONDS, Received, receiving, response


class Seconds:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wait_of(limits: HostLimits, host: str = "h") -> float:
    with pytest.raises(Snooze) as caught, limits.place(host):
        pass
    return caught.value.delay_ms / 1000


def test_a_place_is_free_again_when_its_delivery_ends() -> None:
    limits = HostLimits(2)
    with limits.place("h"):
        full = pytest.raises(Snooze, match=r"2 deliveries to 'h' are under way")
        with limits.place("h"), full, limits.place("h"):
            pass
        with limits.place("h"), limits.place("other"):
            pass


def test_those_put_off_come_back_one_after_the_other_at_the_hosts_pace() -> None:
    seconds = Seconds()
    limits = HostLimits(2, seconds)
    with ExitStack() as held:
        held.enter_context(limits.place("h"))
        for _ in range(50):
            with limits.place("h"):
                seconds.now += 8
        held.enter_context(limits.place("h"))
        # A delivery takes eight seconds and two run at a time: every four seconds one ends.
        assert [wait_of(limits) for _ in range(3)] == pytest.approx([4, 8, 12], abs=0.1)
        seconds.now += 6
        assert wait_of(limits) == pytest.approx(10, abs=0.1)


def test_waits_are_bounded_whatever_the_pace() -> None:
    seconds = Seconds()
    limits = HostLimits(1, seconds)
    with limits.place("h"):
        waits = [wait_of(limits) for _ in range(500)]
        assert waits[0] == 1
        assert waits == sorted(waits)
        assert waits[-1] == 60
        seconds.now += 59.5
        # The line moved on, though nothing ended.
        assert wait_of(limits) == pytest.approx(1.5)
    fast = HostLimits(1000, seconds)
    with ExitStack() as held:
        for _ in range(1000):
            held.enter_context(fast.place("h"))
        assert wait_of(fast) == 0.1


def test_hosts_without_deliveries_are_forgotten() -> None:
    limits = HostLimits(1)
    for number in range(100):
        with limits.place(f"host-{number}"):
            assert len(limits._hosts) == 1
    assert limits._hosts == {}


async def test_a_slow_host_does_not_hold_every_worker(
    open_queue: OpenQueue, mock_clock: MockClock
) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1, keep_done_jobs=10**6))
    may_answer = asyncio.Event()
    waiting: list[int] = []

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.target == "/slow":
            waiting.append(len(waiting))
            await may_answer.wait()
        writer.write(response("200 OK"))

    async with receiving(answer) as receiver:
        slow = [await add(queue, f"{receiver.url_of('127.0.0.1')}/slow") for _ in range(12)]
        fast = [await add(queue, f"{receiver.url_of('localhost')}/fast") for _ in range(12)]
        stop = asyncio.Event()
        async with WebhookWorker(allow_private_addresses=True, limit_per_host=3) as webhooks:
            worker = asyncio.create_task(
                run_worker(queue, "hooks", webhooks, concurrency=4, shutdown=stop)
            )
            async with asyncio.timeout(REAL_SECONDS):
                for job_id in fast:
                    await finished(queue, mock_clock, job_id)
                assert len(waiting) == 3
                may_answer.set()
                for job_id in slow:
                    await finished(queue, mock_clock, job_id)
            stop.set()
            await worker
    for job_id in slow + fast:
        # The one attempt that a job had was not spent by waiting.
        assert [entry.attempt for entry in await queue.attempt_history(job_id)] == [1]
    assert (await queue.stats("hooks")).done == 24


async def add(queue: Queue, url: str) -> str:
    return (await enqueue_webhook(queue, "hooks", WebhookRequest(url), b"")).id


async def finished(queue: Queue, clock: MockClock, job_id: str) -> None:
    """Let time pass until a job has ended: those that were put off wait for it."""
    end = asyncio.create_task(queue.wait_for_completion(job_id, 10**6))
    while not end.done():
        await clock.advance(1)
        await asyncio.wait([end], timeout=0.01)
    assert end.result().completed


@pytest.mark.parametrize(("limit", "kind"), [(0, InvalidArgument), (1.5, InvalidArgumentType),
                                             (True, InvalidArgumentType)])  # fmt: skip
def test_bad_limits_are_refused(limit: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="limit_per_host"):
        WebhookWorker(limit_per_host=limit)
