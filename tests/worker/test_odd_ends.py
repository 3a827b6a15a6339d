"""Handlers that end in odd ways: their job is settled or goes back, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from taquba import (
    FailWith,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    RetryAfter,
    SettlementEffects,
    run_worker,
)
from taquba._worker import worker
from tests.worker.support import REAL_SECONDS, Panic, add_jobs, finish, working


class Odd(Exception):
    def __str__(self) -> str:
        raise AttributeError("response")


class OddClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise Panic


class Unmade(FailWith):
    """Its own constructor forgets the one of its base."""

    def __init__(self) -> None:
        Exception.__init__(self)


class UnmadeRetry(RetryAfter):
    def __init__(self) -> None:
        Exception.__init__(self, "later")


class Writes(Mapping[Any, bytes]):
    """Entries that cannot be read, once they are to be written."""

    def __getitem__(self, key: Any) -> bytes:
        raise Panic

    def __iter__(self) -> Iterator[Any]:
        raise Panic

    def __len__(self) -> int:
        return 1


def effects() -> SettlementEffects:
    made = SettlementEffects()
    object.__setattr__(made, "kv_writes", Writes())
    return made


RAISED: dict[str, Any] = {
    "no text": (Odd(), "Odd"),
    "a group without text": (ExceptionGroup("two", [Odd(), Odd()]), "ExceptionGroup: two"),
    "odd class": (OddClass(), "OddClass"),
    "no verdict": (Unmade(), "AttributeError"),
    "no delay": (UnmadeRetry(), "AttributeError"),
    "a reason without text": (PermanentFailure(Odd()), "PermanentFailure"),  # type: ignore[arg-type]
    "wraps no text": (FailWith(Odd(), SettlementEffects()), "Odd"),
    "odd effects": (FailWith("no", effects()), "Panic"),
}


@pytest.mark.parametrize(("raised", "told"), RAISED.values(), ids=RAISED)
async def test_whatever_a_handler_raises_its_job_is_settled(
    queue: Queue, raised: BaseException, told: str
) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        if job.payload == b"0":
            raise raised

    ids = await add_jobs(queue, 2, max_attempts=1)
    async with working(queue, handle):
        dead, done = await finish(queue, *ids)
    assert done is None
    assert dead is not None
    assert dead.last_error is not None
    assert told in dead.last_error


async def test_effects_that_cannot_be_read_fail_the_attempt(queue: Queue) -> None:
    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        return effects() if job.payload == b"0" else None

    ids = await add_jobs(queue, 2, max_attempts=1)
    async with working(queue, handle):
        dead, done = await finish(queue, *ids)
    assert done is None
    assert dead is not None
    assert dead.last_error is not None
    assert "Panic" in dead.last_error


@pytest.mark.parametrize("signalled", [False, True], ids=["drain timeout", "cancelled"])
async def test_a_handler_that_ignores_its_cancellation_is_left_behind(
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    signalled: bool,
) -> None:
    monkeypatch.setattr(worker, "_ABANDONED_AFTER_SECONDS", 0.1)
    started, may_end, shutdown = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(job: JobRecord, lease: LeaseHandle) -> None:
        started.set()
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    (job_id,) = await add_jobs(queue, 1, max_attempts=1)
    running = asyncio.create_task(
        run_worker(queue, "q", handle, shutdown=shutdown, drain_timeout=0)
    )
    await started.wait()
    with caplog.at_level(logging.ERROR):
        if signalled:
            running.cancel()
        else:
            shutdown.set()
        async with asyncio.timeout(REAL_SECONDS):
            await asyncio.wait([running])
    assert job_id in caplog.text
    assert "left behind" in caplog.text
    job = await queue.get_job(job_id)
    assert job is not None
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)
    may_end.set()
    await asyncio.sleep(0.01)
