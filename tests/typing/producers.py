"""What type checkers make of producers and the inbox. Checked, never run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type

from taquba import (
    EnqueueRequest,
    InboxConfig,
    InboxStats,
    Producer,
    Queue,
    QueueReader,
    Receipt,
    RejectedBatch,
    SyncProducer,
    UnreadableRecord,
)
from taquba.testing import MockClock


async def produced() -> None:
    async with Producer.open("s3://bucket/prefix", fsync=False, clock=MockClock()) as producer:
        assert_type(producer, Producer)
        receipt = await producer.enqueue(
            "q",
            b"",
            delay=timedelta(seconds=5),
            priority=1,
            max_attempts=2,
            dedup_key="key",
            headers={"a": "b"},
            job_id="own",
        )
        assert_type(receipt, Receipt)
        assert_type(receipt.id, str)
        await producer.enqueue("q", b"", run_at=datetime.now(UTC), idempotency_key="key")
        assert_type(await producer.enqueue_batch([EnqueueRequest("q", b"")]), list[Receipt])
        await producer.enqueue("q", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await Producer.open("./data"), Producer)


def produced_by_threads() -> None:
    with SyncProducer.open("./data", fsync=False) as producer:
        assert_type(producer, SyncProducer)
        assert_type(producer.enqueue("q", b"", idempotency_key="key"), Receipt)
        assert_type(producer.enqueue_batch(iter([EnqueueRequest("q", b"")])), list[Receipt])


async def taken(reader: QueueReader) -> None:
    config = InboxConfig(poll_interval=1, idle_poll_interval=timedelta(minutes=1), dedup_window=900)
    async with Queue.open("./data", inbox=config) as queue:
        assert_type(await queue.ingest_now(), int)
        assert_type(await queue.inbox_stats(), InboxStats)
        assert_type(await queue.rejected_batches(limit=5), list[RejectedBatch])
    await Queue.open("./data", inbox=True)
    assert_type(await reader.inbox_stats(), InboxStats)
    assert_type(await reader.rejected_batches(), list[RejectedBatch])
    assert_type((await reader.kv_scan("")).unreadable, tuple[UnreadableRecord, ...])
    assert_type((await reader.list_jobs("q", "dead")).unreadable, tuple[UnreadableRecord, ...])
