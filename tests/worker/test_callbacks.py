"""Callbacks of handlers: the event loop calls them, and what they raise harms nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

import pytest

from taquba import JobRecord, LeaseHandle, Queue
from tests.worker.support import Panic, add_jobs, finish, working


def divide() -> NoReturn:
    raise ZeroDivisionError


def leave() -> NoReturn:
    raise SystemExit(3)


def panic() -> NoReturn:
    raise Panic("index out of bounds")


CALLBACKS = pytest.mark.parametrize("callback", [divide, leave, panic])


@CALLBACKS
async def test_a_callback_that_raises_is_logged_and_stops_nobody(
    queue: Queue, caplog: pytest.LogCaptureFixture, callback: Callable[[], None]
) -> None:
    called: list[str] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        if job.payload == b"1":
            lease.on_end(lambda: called.append("before"))
            lease.on_end(callback)
            lease.on_end(lambda: called.append("after"))

    ids = await add_jobs(queue, 3)
    async with working(queue, handle):
        assert await finish(queue, *ids) == [None] * 3
        assert await finish(queue, *await add_jobs(queue, 1)) == [None]
    assert called == ["before", "after"]
    (record,) = [record for record in caplog.records if "callback" in record.message]
    assert record.levelno == logging.ERROR
    assert record.__dict__["taquba_job_id"] == ids[1]
    stats = await queue.stats("q")
    assert (stats.pending, stats.claimed) == (0, 0)


@CALLBACKS
async def test_a_callback_of_a_hold_that_is_over_is_called_by_the_loop(
    queue: Queue, caplog: pytest.LogCaptureFixture, callback: Callable[[], None]
) -> None:
    leases: list[LeaseHandle] = []

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        leases.append(lease)

    async with working(queue, handle):
        await finish(queue, *await add_jobs(queue, 1))
    leases[0].on_end(callback)
    await asyncio.sleep(0)
    assert "callback" in caplog.text


@CALLBACKS
async def test_a_cancel_callback_that_raises_is_logged(
    queue: Queue, caplog: pytest.LogCaptureFixture, callback: Callable[[], None]
) -> None:
    started = asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        lease.cancel_token.on_cancel(callback)
        started.set()
        await lease.cancel_token.wait()
        lease.cancel_token.on_cancel(callback)

    (job_id,) = await add_jobs(queue, 1)
    async with working(queue, handle):
        await started.wait()
        await queue.cancel(job_id)
        assert await finish(queue, job_id) == [None]
        await asyncio.sleep(0)
    assert caplog.text.count("a callback") == 2
