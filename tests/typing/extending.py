"""What type checkers make of `taquba.extending`. Checked, never run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, assert_type

import anyio

from taquba import LeaseHandle, Queue, TaqubaError
from taquba.extending import (
    ExecutorOrFactory,
    KeyLocks,
    Leash,
    NotStarted,
    PlainCall,
    Pool,
    RunsInBackground,
    RunTimer,
    contained,
    describe,
    ends_program,
    is_stopped,
    locks_of,
    only_runner,
    seen_through,
    until_durable,
    was_cancelled,
)
from taquba.extending.checks import at_least_one, duration_ms, instance
from taquba.extending.typed import (
    Arguments,
    Codec,
    Signature,
    digest,
    fingerprint,
    pack,
    unpack,
)


class Loop(RunsInBackground):
    async def run(self, shutdown: asyncio.Event | None = None) -> None: ...


class Unfinished(RunsInBackground): ...


async def used(queue: Queue) -> None:
    async with Loop() as loop:
        assert_type(loop, Loop)
    Unfinished()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    assert_type(locks_of(queue), KeyLocks)
    assert_type(await seen_through(queue.kv_get(b"key")), bytes | None)
    await until_durable(queue, "key")
    assert_type(describe(ValueError(), bare=(ValueError, TypeError)), str)
    assert_type(is_stopped(ValueError()), bool)
    with only_runner(queue, {"q": used}):
        assert_type(was_cancelled(asyncio.create_task(used(queue))), TaqubaError)
    assert_type(await Leash(queue.kv_get("key")), bytes | None)


def double(number: int) -> int:
    return 2 * number


async def called(queue: Queue, lease: LeaseHandle, threads: anyio.CapacityLimiter) -> None:
    executor: ExecutorOrFactory = ThreadPoolExecutor(1)
    pool = Pool(executor, queue.clock)
    assert_type(await pool.start(2), None)
    RunTimer(queue.clock, lease, 1000, pool.close, pool).cancel()
    call = PlainCall(queue.clock, lease)
    try:
        assert_type(await call.in_executor(pool, double, 1), int)
        assert_type(await PlainCall(queue.clock).in_thread(threads, double, 1), int)
        assert_type(await contained(queue.kv_get("key")), bytes | None)
    except NotStarted as error:
        assert_type(ends_program(error), bool)


def typed() -> None:
    signature = Signature("job 'send'", used, context="Context")
    assert_type(signature.bind((), {}), dict[str, Any])
    assert_type(signature.call({}), Arguments)
    assert_type(signature.pack({}), bytes)
    assert_type(signature.fingerprint({}), bytes)
    assert_type(signature.pack_result(None), bytes)
    codec = Codec[int](int, "the number", "this has a type")
    assert_type(codec.load(codec.dump(1)), int)
    assert_type(digest({}), bytes)
    assert_type(fingerprint([]), bytes)
    assert_type(unpack(pack(None)), object)


def checked(queue: object) -> None:
    assert_type(at_least_one(2, "attempts"), int)
    assert_type(duration_ms(timedelta(minutes=1), "timeout", minimum=1), int)
    instance(queue, Queue, "queue")
