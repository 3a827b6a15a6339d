"""A batch that lies about its ids, or comes again, changes no job that is there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from ulid import ULID

from taquba import EnqueueRequest, InboxConfig, JobStatus, Producer, Queue, QueueConfig
from taquba._model.batch import MAX_BATCH_JOBS, decode_batch, encode_batch, encode_request
from taquba._objects.inbox_objects import InboxObjects
from taquba._queue.ingesting import ingest
from taquba.testing import MockClock
from tests.inbox.support import inbox_at
from tests.queue.support import fresh_url

ASLEEP = InboxConfig(poll_interval=3600, dedup_window=600)
KEEPS = QueueConfig(keep_done_jobs=3600, dead_retention=3600)
STATES = ["pending", "scheduled", "claimed", "done", "dead"]


async def with_ids(inbox: InboxObjects, job_ids: list[str], queue: str = "other") -> None:
    """A batch whose producer says that it drew these ids."""
    requests = [
        encode_request(
            EnqueueRequest(queue, b"forged", priority=1, kv_writes={job_id: b"forged"}), job_id, 0
        )
        for job_id in job_ids
    ]
    await inbox.put(str(ULID()), encode_batch(0, requests))


async def in_state(queue: Queue, state: str) -> str:
    delay = 60 if state == "scheduled" else None
    job_id = (await queue.enqueue("q", b"honest", delay=delay)).id
    if state in ("claimed", "done", "dead"):
        claim = await queue.claim("q")
        assert claim is not None
        if state == "done":
            await queue.ack(claim)
        elif state == "dead":
            await queue.dead_letter(claim, "dead")
    return job_id


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among others"])
async def test_a_forged_id_of_a_job_makes_no_second_one(state: str, others: int) -> None:
    url = fresh_url()
    async with Queue.open(url, inbox=ASLEEP, default_config=KEEPS) as queue:
        job_id = await in_state(queue, state)
        before = await queue.get_job(job_id)
        inbox = await inbox_at(url)
        ids = [job_id, *(str(ULID()) for _ in range(others))]
        await with_ids(inbox, ids)
        await queue.ingest_now()
        await with_ids(inbox, [*reversed(ids), "0" * 26, "Z" * 26])
        await queue.ingest_now()
        assert await queue.get_job(job_id) == before
        assert before is not None
        assert before.status is JobStatus(state)
        assert await queue.kv_get(job_id) is None
        stats = await queue.stats("q")
        assert (stats.pending, stats.scheduled, stats.claimed, stats.done, stats.dead) == tuple(
            int(state == one) for one in STATES
        )
        assert (await queue.stats("other")).pending == others + 2


async def test_ids_that_lie_far_apart_are_looked_up_one_by_one() -> None:
    url = fresh_url()
    async with Queue.open(url, inbox=ASLEEP) as queue:
        honest = [(await queue.enqueue("q", b"")).id for _ in range(100)]
        await with_ids(await inbox_at(url), [honest[0], honest[-1], *(f"x{n}" for n in range(20))])
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == 100
        assert (await queue.stats("other")).pending == 20


async def test_of_batches_that_have_an_id_in_common_one_makes_the_job() -> None:
    async with Queue.open(fresh_url(), inbox=ASLEEP) as queue:
        job_id = str(ULID())

        def batch(own: bool) -> bytes:
            request = EnqueueRequest("q", b"", job_id=job_id if own else None)
            return encode_batch(0, [encode_request(request, job_id, 0)])

        new = await asyncio.gather(
            *(
                ingest(queue._owner, decode_batch(str(ULID()), batch(own)))
                for own in (False, True, False, False)
            )
        )
        assert sum(result.new for made in new for result in made or ()) == 1
        assert (await queue.stats("q")).pending == 1


@pytest.mark.parametrize("state", ["scheduled", "claimed"])
@pytest.mark.allow_blocking("the test itself copies the inbox")
async def test_a_batch_that_is_restored_after_its_window_doubles_no_job_that_is_there(
    tmp_path: Path, state: str
) -> None:
    store, clock = tmp_path / "store", MockClock()
    async with Queue.open(store, inbox=ASLEEP, clock=clock):
        pass
    async with Producer.open(store, clock=clock) as producer:
        delay = 7200 if state == "scheduled" else None
        receipts = await producer.enqueue_batch(
            [EnqueueRequest("q", b"x", delay=delay) for _ in range(30)]
        )
    shutil.copytree(tmp_path / "store-inbox", tmp_path / "backup")
    async with Queue.open(store, inbox=ASLEEP, clock=clock) as queue:
        await queue.ingest_now()
        if state == "claimed":
            assert len(await queue.claim_batch("q", 30, lease=7200)) == 30
        for _ in range(6):
            await clock.advance(300)
            await queue.ingest_now()
        shutil.copytree(tmp_path / "backup", tmp_path / "store-inbox", dirs_exist_ok=True)
        assert await queue.ingest_now() == 0
        jobs = (await queue.list_jobs("q", state)).jobs
        assert sorted(job.id for job in jobs) == sorted(receipt.id for receipt in receipts)
        stats = await queue.stats("q")
        assert (stats.pending, stats.scheduled + stats.claimed) == (0, 30)


async def test_the_largest_batch_is_looked_up_and_taken_once() -> None:
    url = fresh_url()
    async with Queue.open(url, inbox=ASLEEP) as queue, Producer.open(url) as producer:
        await producer.enqueue_batch([EnqueueRequest("q", b"")] * MAX_BATCH_JOBS)
        await queue.ingest_now()
        assert (await queue.stats("q")).pending == MAX_BATCH_JOBS
