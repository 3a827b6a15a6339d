"""What type checkers make of `taquba.extending`. Checked, never run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, assert_type

import anyio

from taquba import (
    JobRecord,
    KvPage,
    LeaseHandle,
    Queue,
    SettlementEffects,
    Snooze,
    TaqubaError,
    run_worker,
)
from taquba.extending import (
    ExecutorOrFactory,
    KeyLocks,
    Leash,
    NotStarted,
    PlainCall,
    Pool,
    RunsInBackground,
    RunTimer,
    Shutdown,
    contained,
    describe,
    ends_program,
    is_stopped,
    legible,
    locks_of,
    member_id,
    only_it_was_cancelled,
    only_runner,
    passes_through,
    seen_through,
    together,
    until_one_ends,
    was_cancelled,
)
from taquba.extending.checks import at_least_one, check_shutdown, duration_ms, instance, key
from taquba.extending.expiries import Expiries, Expiry, Sweeper, expiry_key
from taquba.extending.halves import TwoHalves
from taquba.extending.named import entry_is, new_name, read_named
from taquba.extending.parking import parked, parked_jobs, too_new
from taquba.extending.times import from_ms, later, to_ms
from taquba.extending.typed import (
    Arguments,
    Codec,
    Signature,
    digest,
    fingerprint,
    pack,
    unpack,
)
from taquba.extending.walks import pages


class Loop(RunsInBackground):
    async def run(self, shutdown: asyncio.Event | None = None) -> None: ...


class Unfinished(RunsInBackground): ...


class Doubling(TwoHalves[int, int, str]):
    def read(self, job: JobRecord) -> int:
        return len(job.payload)

    async def perform(self, work: int, lease: LeaseHandle) -> int:
        return 2 * work

    def judge(self, work: int, verdict: int, lease: LeaseHandle) -> str:
        return str(verdict)

    async def conclude(self, work: int, decision: str, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(kv_writes={"doubled": decision.encode()})


async def doubled(queue: Queue) -> None:
    await run_worker(queue, "numbers", Doubling())


async def used(queue: Queue) -> None:
    async with Loop() as loop:
        assert_type(loop, Loop)
    Unfinished()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    assert_type(locks_of(queue), KeyLocks)
    assert_type(member_id(queue), str)
    assert_type(await seen_through(queue.kv_get(b"key")), bytes | None)
    assert_type(describe(ValueError(), bare=(ValueError, TypeError)), str)
    assert_type(is_stopped(ValueError()), bool)
    assert_type(legible(ValueError()), BaseException)
    with only_runner(queue, {"q": used}):
        assert_type(was_cancelled(asyncio.create_task(used(queue))), TaqubaError)
        assert_type(only_it_was_cancelled(asyncio.create_task(used(queue))), bool)
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
    instance(queue, (Queue, int), "queue")
    assert_type(key("k", "the key", 100), str)


async def shared(queue: Queue, shutdown: Shutdown) -> None:
    check_shutdown(shutdown)
    assert_type(passes_through(ValueError()), bool)
    assert_type(await together([queue.kv_get("key"), queue.kv_get("other")]), list[bytes | None])
    await until_one_ends({"one": Loop().run(), "other": Loop().run()})
    async for page in pages(lambda cursor: queue.kv_scan("mine/", cursor)):
        assert_type(page, KvPage[str])
    async for job in parked_jobs(queue, "jobs"):
        assert_type(job, JobRecord)
    assert_type(parked("nobody knows it"), Snooze)
    assert_type(too_new(2, "job 'x'", 1), Snooze)

    async def forget(expiry: Expiry) -> None:
        await queue.kv_delete(expiry.key)

    async def sweep() -> int | None:
        return await Expiries(queue, "mine/", "my package").sweep(forget, keep_ms=1000)

    Sweeper(queue.clock, sweep, "could not forget").note(1)
    assert_type(expiry_key("mine/", 1, "what"), str)
    name = new_name(queue, "mine")
    assert_type(await read_named(queue, name, entry_is(queue, "key", b"value")), bytes | None)
    assert_type(to_ms(later(from_ms(0), 1, "delay")), int)
