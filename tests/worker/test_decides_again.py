"""Handlers whose decision is refused, because the store has changed since they read it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from taquba import (
    CancelOutcome,
    EnqueueRequest,
    FailWith,
    JobRecord,
    JobStatus,
    LeaseHandle,
    PermanentFailure,
    Queue,
    SettlementEffects,
    run_worker,
)
from tests.worker.support import finish


async def work_off(queue: Queue, handler: object) -> None:
    await run_worker(queue, "q", handler, until_empty=True)  # type: ignore[arg-type]


async def test_a_refused_decision_is_made_again(queue: Queue) -> None:
    runs: list[str] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        runs.append(job.id)

        async def decide() -> SettlementEffects:
            count = await queue.kv_get("count")
            if len(runs) == 1:
                # Somebody else counts meanwhile.
                runs.append("")
                await queue.kv_put("count", b"10")
            counted = b"%d" % (1 + int(count or b"0"))
            return SettlementEffects(kv_writes={"count": counted}, kv_expected={"count": count})

        lease.decides_again(decide)
        return await decide()

    await queue.enqueue("q", b"")
    await work_off(queue, handler)
    assert await queue.kv_get("count") == b"11"
    assert len(runs) == 2
    assert (await queue.stats("q")).dead == 0


async def test_counting_in_many_handlers_loses_nothing(queue: Queue) -> None:
    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        async def decide() -> SettlementEffects:
            count = await queue.kv_get("count")
            counted = b"%d" % (1 + int(count or b"0"))
            return SettlementEffects(kv_writes={"count": counted}, kv_expected={"count": count})

        lease.decides_again(decide)
        return await decide()

    await queue.enqueue_batch([EnqueueRequest("q", b"") for _ in range(30)])
    await run_worker(queue, "q", handler, concurrency=10, until_empty=True)
    assert await queue.kv_get("count") == b"30"


async def test_without_a_second_decision_the_attempt_failed(queue: Queue) -> None:
    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        return SettlementEffects(kv_writes={"a": b"1"}, kv_expected={"a": b"0"})

    enqueued = await queue.enqueue("q", b"", max_attempts=1)
    await work_off(queue, handler)
    assert await queue.kv_get("a") is None
    job = await queue.get_job(enqueued.id)
    assert job is not None
    assert job.status is JobStatus.DEAD
    assert "'a' is not as kv_expected says" in str(job.last_error)


async def test_the_second_decision_may_be_a_failure(queue: Queue) -> None:
    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        async def decide() -> SettlementEffects:
            effects = SettlementEffects(kv_writes={"failed": b"1"}, kv_expected={"a": b"1"})
            await queue.kv_put("a", b"1")
            raise FailWith(PermanentFailure("no"), effects)

        lease.decides_again(decide)
        return SettlementEffects(kv_writes={"a": b"1"}, kv_expected={"a": b"0"})

    enqueued = await queue.enqueue("q", b"")
    await work_off(queue, handler)
    assert await queue.kv_get("failed") == b"1"
    job = await queue.get_job(enqueued.id)
    assert job is not None
    assert (job.status, job.last_error) == (JobStatus.DEAD, "no")


async def test_a_job_that_is_asked_to_cancel_meanwhile_is_decided_again(queue: Queue) -> None:
    running = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        async def decide() -> SettlementEffects:
            return SettlementEffects(kv_writes={"ended": b"cancelled"})

        lease.decides_again(decide)
        running.set()
        await go_on.wait()
        return SettlementEffects(kv_writes={"ended": b"done"}, unless_cancelled=True)

    enqueued = await queue.enqueue("q", b"")
    worker = asyncio.create_task(run_worker(queue, "q", handler))
    await running.wait()
    await queue.cancel(enqueued.id)
    go_on.set()
    await finish(queue, enqueued.id)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert await queue.kv_get("ended") == b"cancelled"


async def test_the_token_has_fired_when_a_job_is_decided_again(queue: Queue) -> None:
    decided: list[bool] = []
    requests: list[asyncio.Task[CancelOutcome]] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        async def decide() -> SettlementEffects:
            decided.append(token.cancelled)
            return SettlementEffects(unless_cancelled=not token.cancelled)

        token = lease.cancel_token
        lease.decides_again(decide)
        requests.append(asyncio.create_task(queue.cancel(job.id)))
        await asyncio.sleep(0)
        # The request is decided, or on its way, and not applied yet.
        return await decide()

    enqueued = await queue.enqueue("q", b"")
    worker = asyncio.create_task(run_worker(queue, "q", handler))
    await finish(queue, enqueued.id)
    asked = await requests[0]
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert decided == ([False, True] if asked is CancelOutcome.REQUESTED else [False])


async def test_a_job_that_is_done_is_not_kept_by_what_would_decide_again(queue: Queue) -> None:
    class Large: ...

    kept: list[weakref.ref[Large]] = []

    async def handler(job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        large = Large()
        kept.append(weakref.ref(large))

        async def decide() -> SettlementEffects:
            return SettlementEffects(kv_writes={lease.cancel_token: large})  # type: ignore[dict-item]

        lease.decides_again(decide)
        return None

    await queue.enqueue("q", b"")
    gc.disable()
    try:
        await work_off(queue, handler)
        await asyncio.sleep(0)
        assert [ref() for ref in kept] == [None]
    finally:
        gc.enable()
