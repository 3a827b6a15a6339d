"""Payloads on a store that is slow, or that does not let them be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from taquba import EnqueueRequest, Queue, QueueConfig, StoreError, WaitStatus
from taquba._objects import payloads, space
from taquba.testing import MockClock
from tests.queue.support import NO_RETRY_WAIT, OpenQueue, must_claim
from tests.servers.faulty_s3 import FaultyS3

LIMIT = 100
BIG = b"b" * (LIMIT + 1)

LEASE = 0.4
CONFIG = QueueConfig(lease_duration=LEASE, max_attempts=1, **NO_RETRY_WAIT)


def put_a_file_in_place_of(folder: Path) -> Path:
    """Have every read below `folder` fail; returns where its content is meanwhile."""
    aside = folder.rename(folder.with_name("aside"))
    folder.touch()
    return aside


def put_back(folder: Path, aside: Path) -> None:
    folder.unlink()
    aside.rename(folder)


async def test_a_slow_read_costs_no_job_of_its_batch_the_lease(s3: FaultyS3) -> None:
    async with Queue.open(
        "memory://",
        payload_url=f"{s3.root}/payloads",
        payload_offload_threshold=LIMIT,
        default_config=CONFIG,
        reaper_interval=0.05,
    ) as queue:
        ids = [(await queue.enqueue("q", payload)).id for payload in (b"small", BIG)]
        s3.read_seconds = 5 * LEASE
        claims = await queue.claim_batch("q", 2)
        assert [claim.id for claim in claims] == ids
        for claim in claims:
            expiry = await queue.lease_expiry(claim)
            assert expiry is not None
            # Counted from the end of the reading, and not longer than it was asked for.
            assert 0 < (expiry - queue.clock.now()).total_seconds() <= LEASE
            await queue.ack(claim)
        assert (await queue.stats("q")).done == 2


async def test_a_wait_for_completion_reads_no_payload_of_a_job_that_waits(s3: FaultyS3) -> None:
    async with Queue.open(
        "memory://", payload_url=f"{s3.root}/payloads", payload_offload_threshold=LIMIT
    ) as queue:
        job_id, _ = await queue.enqueue("q", BIG)
        s3.faults.add("no rights")
        outcome = await queue.wait_for_completion(job_id, 0)
        assert outcome.status is WaitStatus.TIMED_OUT


async def test_a_claim_says_that_the_store_lets_no_payload_be_read(
    open_queue: OpenQueue, mock_clock: MockClock, tmp_path: Path
) -> None:
    queue = await open_queue(tmp_path / "data", payload_offload_threshold=LIMIT)
    ids = [(await queue.enqueue("q", BIG)).id for _ in range(3)]
    payloads = queue._owner.payloads
    folder = tmp_path / "data-payloads" / payloads._prefix
    aside = put_a_file_in_place_of(folder)
    # It must not go on with the next job, and come back to the first when that is pending again.
    with pytest.raises(StoreError) as caught:
        await queue.claim("q", wait=60)
    assert not caught.value.permanent
    with pytest.raises(StoreError):
        await queue.claim_batch("q", 2)
    stats = await queue.stats("q")
    assert (stats.pending, stats.scheduled) == (0, 3)
    put_back(folder, aside)
    await mock_clock.advance(5)
    claims = [await must_claim(queue) for _ in ids]
    assert [(claim.id, claim.attempts, claim.payload) for claim in claims] == [
        (job_id, 1, BIG) for job_id in ids
    ]


async def test_a_small_job_is_claimed_beside_one_that_cannot_be_read(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    queue = await open_queue(tmp_path / "data", payload_offload_threshold=LIMIT)
    await queue.enqueue("q", BIG)
    small, _ = await queue.enqueue("q", b"small")
    put_a_file_in_place_of(tmp_path / "data-payloads" / queue._owner.payloads._prefix)
    assert [claim.id for claim in await queue.claim_batch("q", 2)] == [small]


async def test_a_bucket_that_is_gone_is_an_error_for_writing_and_removing(s3: FaultyS3) -> None:
    async with Queue.open("memory://", payload_url=f"{s3.root}/payloads") as queue:
        await queue.objects.put("key", b"")
        s3.faults.add("no bucket")
        for call in (queue.objects.put("key", b""), queue.objects.delete(["key"])):
            with pytest.raises(StoreError, match="there is no bucket") as caught:
                await call
            # It was there a moment ago, so it may be there again a moment later.
            assert not caught.value.permanent
        s3.faults.clear()


async def test_a_silent_store_holds_a_batch_up_once_and_not_for_each_of_its_jobs(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = 100
    async with Queue.open(
        "memory://", payload_url=f"{s3.root}/payloads", payload_offload_threshold=LIMIT
    ) as queue:
        await queue.enqueue_batch([EnqueueRequest("q", BIG)] * jobs)
        for module in (space, payloads):
            monkeypatch.setattr(module, "OPERATION_TIMEOUT", 0.25)
        s3.faults.add("silent")
        with pytest.raises(StoreError, match=r"did not answer|no large payload"):
            await queue.claim_batch("q", jobs)
        put_off = (await queue.list_jobs("q", "scheduled", payloads=False)).jobs
        assert [job.attempts for job in put_off] == [0] * jobs
        # A few are read at a time; the others only waited for their turn.
        tried = [job for job in put_off if "did not answer" in (job.last_error or "")]
        assert 0 < len(tried) <= jobs // 2
