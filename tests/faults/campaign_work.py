"""The plain jobs of a campaign: what they carry, who works them, and what must come of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from taquba import (
    InboxConfig,
    JobRecord,
    LeaseHandle,
    Queue,
    QueueConfig,
    SettlementEffects,
    run_worker,
)
from taquba.testing import MockClock
from tests.faults.campaign_report import Report

LIMIT: Final = 2_000
"""Bytes above which a payload is an object of its own."""
AT_ONCE: Final = 16
QUEUE: Final = QueueConfig(max_attempts=100, retry_backoff_base=0.05, retry_backoff_max=0.5)

Work = Callable[[JobRecord, LeaseHandle], Awaitable[SettlementEffects]]


def payload_of(chance: random.Random) -> bytes:
    size = chance.choice((10, 100, LIMIT + 500, 20_000))
    return chance.randbytes(8) * (size // 8)


def handler(report: Report) -> Work:
    """Checks a job's payload, and leaves an entry in the commit that settles it."""

    async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        size = report.acknowledged.get(job.id)
        if size is not None and len(job.payload) != size:
            report.wrong.append(f"payload of {job.id}")
        await asyncio.sleep(0.002)
        return SettlementEffects(kv_writes={f"done/{job.id}": b""})

    return handle


async def check_work(report: Report, *urls: str) -> None:
    """As the next owner of each store: take and work all there is, and see what is missing."""
    done: set[str] = set()
    for url in urls:
        done |= await _work_off(report, url)
    report.lost = sorted(report.acknowledged.keys() - done)


async def _work_off(report: Report, url: str) -> set[str]:
    clock = MockClock(datetime.now(UTC))
    async with Queue.open(
        url, inbox=InboxConfig(poll_interval=3600), clock=clock, default_config=QUEUE
    ) as queue:
        stop = asyncio.Event()
        working = asyncio.create_task(
            run_worker(queue, "w", handler(report), concurrency=AT_ONCE, shutdown=stop)
        )
        async with asyncio.timeout(600):
            for _ in range(3):
                await queue.ingest_now()
            await _until_worked(queue)
            while (await queue.stats("w")).scheduled:
                await clock.advance(30)
                await _until_worked(queue)
        stop.set()
        await working
        done = await _done(queue)
        report.twice += (await queue.stats("w")).done - len(done)
        for name in await queue.list_queues():
            report.dead += (await queue.stats(name)).dead
        if (inbox := await queue.inbox_stats()).waiting or inbox.rejected:
            report.wrong.append(f"the inbox of {url} is left with {inbox}")
    return done


async def _until_worked(queue: Queue) -> None:
    while (stats := await queue.stats("w")).pending or stats.claimed:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(0.05)


async def _done(queue: Queue) -> set[str]:
    done: set[str] = set()
    cursor = None
    while True:
        page = await queue.kv_scan("done/", cursor, 1000)
        done |= {entry.key.removeprefix("done/") for entry in page.entries}
        cursor = page.next_cursor
        if cursor is None:
            return done
