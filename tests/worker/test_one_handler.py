"""The loops of a queue have one handler in a process: two would take each other's jobs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest

from taquba import (
    InvalidArgument,
    JobRecord,
    LeaseHandle,
    Queue,
    WorkerSpec,
    run_worker,
    run_workers,
)
from taquba._worker.handlers import Handler
from taquba_webhooks import WebhookWorker
from tests.worker.support import Gate, add_jobs, finish, working


async def one(job: JobRecord, lease: LeaseHandle) -> None: ...


async def two(job: JobRecord, lease: LeaseHandle) -> None: ...


def plain(job: JobRecord, lease: LeaseHandle) -> None: ...


def other_plain(job: JobRecord, lease: LeaseHandle) -> None: ...


async def with_argument(argument: object, job: JobRecord, lease: LeaseHandle) -> None: ...


class Sender:
    async def process(self, job: JobRecord, lease: LeaseHandle) -> None: ...


@dataclass
class Configured:
    url: str

    async def process(self, job: JobRecord, lease: LeaseHandle) -> None: ...


class Vague:
    """Compares as arrays do."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


_SENDER = Sender()

DIFFERENT: list[tuple[Handler, Handler]] = [
    (one, two),
    (one, plain),
    (Sender(), Sender()),
    (Sender().process, Sender().process),
    (Configured("a"), Configured("b")),
    (WebhookWorker(limit_per_host=1), WebhookWorker(limit_per_host=2)),
    (lambda job, lease: one(job, lease), lambda job, lease: one(job, lease)),
    (partial(with_argument, 1), partial(with_argument, 2)),
    (partial(with_argument, 1), one),
    (partial(with_argument, Vague()), partial(with_argument, Vague())),
]
EQUAL: list[tuple[Handler, Handler]] = [
    (one, one),
    (plain, plain),
    (_SENDER, _SENDER),
    (_SENDER.process, _SENDER.process),
    (_SENDER, _SENDER.process),
    (Configured("a"), Configured("a")),
    (partial(with_argument, 1), partial(with_argument, 1)),
    (partial(partial(with_argument), 1), partial(partial(with_argument), 1)),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
async def test_a_second_handler_of_a_queue_is_refused(
    queue: Queue, first: Handler, second: Handler
) -> None:
    async with working(queue, first):
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match=r"queue 'q' is already served.*another queue"):
            await run_worker(queue, "q", second)
        # Another queue is another matter.
        async with working(queue, second, name="other"):
            await asyncio.sleep(0)
    # The first has gone: another may come.
    async with working(queue, second):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("first", "second"), EQUAL)
async def test_two_loops_with_one_handler_share_a_queue(
    queue: Queue, first: Handler, second: Handler
) -> None:
    async with working(queue, first), working(queue, second):
        await finish(queue, *await add_jobs(queue, 4))


async def test_the_refusal_names_the_handler_that_serves_the_queue(queue: Queue) -> None:
    async with working(queue, one):
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match=r"served in this process by <function one "):
            await run_worker(queue, "q", two)


async def test_two_loops_that_start_at_the_same_time_are_told_apart(queue: Queue) -> None:
    # Whatever one of them waits for before it claims: here, for its executor.
    specs = [
        WorkerSpec("q", call, executor=lambda: ThreadPoolExecutor(1))
        for call in (plain, other_plain)
    ]
    with pytest.raises(InvalidArgument, match="already served"):
        await run_workers(queue, *specs, handle_signals=False)


async def test_another_handler_may_take_over_while_the_first_drains(queue: Queue) -> None:
    gate = Gate()
    shutdown = asyncio.Event()
    (job_id,) = await add_jobs(queue, 1)
    draining = asyncio.create_task(run_worker(queue, "q", gate, shutdown=shutdown))
    await gate.starts(1)
    shutdown.set()
    for _ in range(5):
        await asyncio.sleep(0)
    async with working(queue, one):
        await finish(queue, *await add_jobs(queue, 1))
        gate.open.set()
        await finish(queue, job_id)
    await draining
