"""Which handlers the type checkers accept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import assert_type

import anyio

from taquba import (
    FailWith,
    Handler,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    Queue,
    RetryAfter,
    SettlementEffects,
    Snooze,
    WorkerSpec,
    run_worker,
    run_workers,
)
from taquba.testing import MockClock, drain


async def returns_nothing(job: JobRecord, lease: LeaseHandle) -> None: ...


async def returns_effects(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
    return SettlementEffects()


async def returns_either(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
    return None


def plain(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
    return None


def plain_nothing(job: JobRecord, lease: LeaseHandle) -> None: ...


def decorated(job: JobRecord, lease: LeaseHandle) -> Awaitable[None]:
    return returns_nothing(job, lease)


def with_dependency(name: str, job: JobRecord, lease: LeaseHandle) -> None: ...


async def with_async_dependency(name: str, job: JobRecord, lease: LeaseHandle) -> None: ...


class AsyncProcessor:
    async def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        return None


class PlainProcessor:
    def process(self, job: JobRecord, lease: LeaseHandle) -> None: ...


class Callable_:
    async def __call__(self, job: JobRecord, lease: LeaseHandle) -> None: ...


def without_lease(job: JobRecord) -> None: ...


async def returns_text(job: JobRecord, lease: LeaseHandle) -> str:
    return ""


def plain_text(job: JobRecord, lease: LeaseHandle) -> str:
    return ""


class WrongProcessor:
    def process(self, job: JobRecord) -> None: ...


accepted: list[Handler] = [
    returns_nothing,
    returns_effects,
    returns_either,
    plain,
    plain_nothing,
    decorated,
    partial(with_dependency, "x"),
    partial(with_async_dependency, "x"),
    AsyncProcessor(),
    PlainProcessor(),
    AsyncProcessor().process,
    Callable_(),
    lambda job, lease: None,
    lambda job, lease: returns_effects(job, lease),
]


async def running(queue: Queue, pool: ProcessPoolExecutor) -> None:
    assert_type(await run_worker(queue, "q", returns_nothing), None)
    await run_worker(
        queue,
        "q",
        plain,
        concurrency=8,
        lease=timedelta(seconds=30),
        poll_interval=0.5,
        timeout=60,
        auto_renew=False,
        executor=pool,
        on_cancel="interrupt",
        shutdown=anyio.Event(),
        drain_timeout=5,
    )
    await run_worker(queue, "q", plain, executor=lambda: ProcessPoolExecutor(4))
    await run_worker(queue, "q", plain, executor=ProcessPoolExecutor)
    await run_worker(queue, "q", AsyncProcessor(), shutdown=asyncio.Event())
    assert_type(
        await run_workers(queue, WorkerSpec("a", plain, concurrency=2), WorkerSpec("b", plain)),
        None,
    )
    assert_type(await drain(queue, "q", PlainProcessor()), int)

    await run_worker(queue, "q", without_lease)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_worker(queue, "q", returns_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_worker(queue, "q", plain_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_worker(queue, "q", WrongProcessor())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_worker(queue, "q", plain, 8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await run_worker(queue, "q", plain, on_cancel="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await run_workers(queue, ("q", plain))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def outcomes() -> None:
    RetryAfter(timedelta(minutes=1))
    RetryAfter(5, "rate limited")
    Snooze(timedelta(minutes=1))
    Snooze(0.5, "busy")
    FailWith("error", SettlementEffects())
    FailWith(PermanentFailure("reason"), SettlementEffects())
    FailWith("error")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryAfter("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def in_unit_tests(clock: MockClock) -> None:
    lease = LeaseHandle.detached()
    assert_type(lease, LeaseHandle)
    assert_type(lease.ensure_at_least(5), None)
    assert_type(lease.expires_at, datetime | None)
    assert_type(lease.on_end(lambda: None), None)
    assert_type(await clock.advance(timedelta(days=1)), None)
    assert_type(clock.now(), datetime)
