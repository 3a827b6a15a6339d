"""What the type checkers infer for opening, enqueueing, claiming, settling and looking."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import assert_type

from opentelemetry.metrics import NoOpMeterProvider

from taquba import (
    CancelOutcome,
    CancelToken,
    Claim,
    Clock,
    EnqueueRequest,
    EnqueueResult,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    KvPage,
    NackOutcome,
    Queue,
    QueueConfig,
    QueueStats,
    SettlementEffects,
    Telemetry,
    WaitOutcome,
    WakeOutcome,
)
from taquba.testing import MockClock


async def opening(clock: MockClock) -> None:
    async with Queue.open("memory://") as entered:
        assert_type(entered, Queue)
    owned = await Queue.open(
        "./data",
        default_config=QueueConfig(lease_duration=timedelta(minutes=1), keep_done_jobs=60.5),
        queue_configs={"q": QueueConfig(dead_retention=None)},
        clock=clock,
        flush_interval=0.1,
        heartbeat_interval=timedelta(seconds=5),
        telemetry=Telemetry(meter_provider=NoOpMeterProvider(), tracer_provider=False),
    )
    assert_type(owned, Queue)
    assert_type(owned.clock, Clock)
    assert_type(owned.config("q"), QueueConfig)
    assert_type(await owned.close(), None)
    Queue.open("memory://", lease=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Queue.open("memory://", telemetry=NoOpMeterProvider())
    Queue.open("memory://", telemetry=True)
    Queue.open("memory://", telemetry="on")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    QueueConfig(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    QueueConfig(lease_duration="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def enqueueing(queue: Queue, when: datetime) -> None:
    result = await queue.enqueue("q", b"", run_at=when, headers={"a": "b"}, kv_writes={"k": b"v"})
    assert_type(result, EnqueueResult)
    assert_type(result.id, str)
    assert_type(result.new, bool)
    job_id, new = result
    assert_type(job_id, str)
    assert_type(new, bool)
    requests = (EnqueueRequest("q", b"", delay=n) for n in range(3))
    assert_type(await queue.enqueue_batch(requests), list[EnqueueResult])
    assert_type(queue.next_job_id(), str)
    await queue.enqueue("q", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EnqueueRequest("q", b"", 5)  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue]


async def claiming(queue: Queue) -> None:
    maybe = await queue.claim("q", lease=timedelta(seconds=5), wait=1)
    assert_type(maybe, Claim | None)
    assert_type(await queue.claim_batch("q", 5), list[Claim])
    assert_type(await queue.wait_for_jobs_on("a", "b", timeout=1), bool)
    await queue.ack(maybe)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert maybe is not None
    assert_type(maybe.id, str)
    assert_type(maybe.payload, bytes)
    assert_type(maybe.headers, Mapping[str, str])
    assert_type(maybe.attempts, int)
    assert_type(maybe.run_at, datetime | None)
    assert_type(maybe.job, JobRecord)
    assert_type(maybe.cancel_token, CancelToken)
    assert_type(maybe.cancel_token.cancelled, bool)
    assert_type(maybe.cancel_token.on_cancel(lambda: None), None)
    maybe.headers["a"] = "b"  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    maybe.id = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def settling(queue: Queue, claim: Claim, record: JobRecord) -> None:
    effects = SettlementEffects(
        enqueues=[EnqueueRequest("q", b"")], kv_writes={"k": b"v"}, kv_deletes=["a", b"b"]
    )
    assert_type(await queue.ack(claim, effects), list[EnqueueResult])
    outcome = await queue.nack(claim, "error", effects)
    assert_type(outcome, NackOutcome)
    assert_type(outcome.retried, bool)
    assert_type(outcome.dead_lettered, bool)
    assert_type(outcome.enqueued, list[EnqueueResult])
    assert_type(await queue.dead_letter(claim, "reason", effects), list[EnqueueResult])
    assert_type(await queue.renew_lease(claim, 5), datetime)
    assert_type(await queue.lease_expiry(claim), datetime | None)
    assert_type(await queue.lease_expiry("id"), datetime | None)

    # A record that was read cannot be settled; only a claim can.
    await queue.ack(record)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.nack(record, "error")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.dead_letter(record, "no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.ack(claim.job)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.ack(claim.id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.renew_lease(record, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # An error is a text, not an exception.
    await queue.nack(claim, ValueError())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.ack(claim, [EnqueueRequest("q", b"")])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    effects.kv_deletes = []  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def operating(queue: Queue) -> None:
    assert_type(await queue.cancel("id", SettlementEffects()), CancelOutcome)
    assert_type(await queue.wake_scheduled("id", b""), WakeOutcome)
    assert_type(await queue.requeue_dead("id"), None)
    assert_type(await queue.purge_dead("id"), None)
    outcome = await queue.wait_for_completion("id", 5)
    assert_type(outcome, WaitOutcome)
    assert_type(outcome.job, JobRecord | None)
    assert_type(outcome.completed, bool)
    assert_type(await queue.reap_now(), int)
    assert_type(await queue.promote_scheduled_now(), int)
    assert_type(await queue.sweep_now(), int)


async def looking(queue: Queue) -> None:
    assert_type(await queue.stats("q"), QueueStats)
    assert_type(await queue.list_queues(), list[str])
    assert_type(await queue.get_job("id"), JobRecord | None)
    page = await queue.list_jobs("q", JobStatus.DONE)
    assert_type(page, JobPage)
    assert_type(page.jobs, list[JobRecord])
    assert_type(page.next_cursor, str | None)
    assert_type(await queue.list_jobs("q", "done", cursor=page.next_cursor, limit=5), JobPage)
    assert_type(await queue.dead_jobs("q"), JobPage)
    assert_type(await queue.attempt_history("id"), list[JobAttempt])
    assert_type(page.jobs[0].status, JobStatus)


async def entries(queue: Queue) -> None:
    assert_type(await queue.kv_get("k"), bytes | None)
    assert_type(await queue.kv_get(b"k"), bytes | None)
    assert_type(await queue.kv_put("k", b"v"), None)
    assert_type(await queue.kv_compare_put("k", None, b"v"), bool)
    assert_type(await queue.kv_compare_delete("k", b"v"), bool)
    text = await queue.kv_scan("prefix")
    assert_type(text, KvPage[str])
    assert_type(text.entries[0].key, str)
    assert_type(text.entries[0].value, bytes)
    raw = await queue.kv_scan(b"prefix", cursor=text.next_cursor, limit=5)
    assert_type(raw, KvPage[bytes])
    assert_type(raw.entries[0].key, bytes)
    key, value = raw.entries[0]
    assert_type(key, bytes)
    assert_type(value, bytes)
    await queue.kv_put("k", "v")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.kv_compare_delete("k", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.kv_scan(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
