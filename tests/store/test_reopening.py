"""An engine that stopped, though nobody opened the store, is opened again below its queue."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping

import pytest

from taquba import Queue, StoreError, StoreFenced
from taquba._engine import reopening
from taquba._engine.engine import _FLUSH_TABLES, Engine
from taquba._model.clock import SystemClock
from taquba._model.ids import IdGenerator
from taquba._objects.location import StoreLocation
from tests.conftest import LONG
from tests.crash.audit import audit
from tests.servers.faulty_s3 import FaultyS3
from tests.store.oddly import CONFLICT, NO_KEY, Odd

URL = "s3://bucket/prefix"


@pytest.mark.parametrize("answer", [CONFLICT, NO_KEY, (404, "NoSuchBucket"), (412, "")])
async def test_an_odd_answer_to_a_commit_is_survived(
    s3: FaultyS3, odd: Odd, answer: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with Queue.open(URL) as queue:
        first = await queue.enqueue("q", b"")
        claimed = await queue.claim("q")
        assert claimed is not None
        odd.answer("PUT", "/wal/", answer)
        ids = [job.id for job in await asyncio.gather(*(queue.enqueue("q", b"") for _ in range(9)))]
        assert "opening it again" in caplog.text
        # What memory held goes on: the claim still settles.
        await queue.ack(claimed)
        assert await queue.get_job(first.id) is None
        assert {job.id for job in await queue.claim_batch("q", 20)} == set(ids)
        await audit(queue, idle=False)
    async with Queue.open(URL) as queue:
        assert (await queue.stats("q")).pending == 9


@pytest.mark.parametrize("folder", ["manifest", "compacted"])
async def test_an_odd_answer_to_a_background_task_is_survived(
    s3: FaultyS3, odd: Odd, folder: str
) -> None:
    async with Queue.open(URL) as queue:
        for _ in range(5):
            await queue.enqueue("q", b"")
        odd.answer("PUT", f"/{folder}/", NO_KEY)
        engine = queue._owner.engine
        with pytest.raises(Exception, match="not found"):
            await engine._db.flush_with_options(_FLUSH_TABLES)
        assert engine._db.status().close_reason is not None
        # Reads and writes find the new one, and an idle queue looks by itself.
        assert await queue.get_job("none") is None
        await queue.enqueue("q", b"")
        assert (await queue.stats("q")).pending == 6
        await audit(queue, idle=False)


@pytest.mark.parametrize("answer", [CONFLICT, NO_KEY, (412, "PreconditionFailed")])
@pytest.mark.parametrize("folder", ["manifest", "compacted"])
async def test_an_odd_answer_to_a_closing_owner_is_no_error(
    s3: FaultyS3, odd: Odd, folder: str, answer: tuple[int, str]
) -> None:
    queue = await Queue.open(URL)
    await queue.enqueue("q", b"")
    assert await queue.claim("q") is not None
    odd.answer("PUT", f"/{folder}/", answer)
    await queue.close()
    async with Queue.open(URL) as queue:
        # The store was closed, as the next owner sees: nobody is suspected.
        (job,) = (await queue.list_jobs("q", "pending")).jobs
        assert not job.suspect


async def test_a_scan_goes_on_where_the_engine_stopped(s3: FaultyS3, odd: Odd) -> None:
    async with Queue.open(URL) as queue:
        for number in range(100):
            await queue.kv_put(f"key/{number:03d}", b"x")
        engine = queue._owner.engine
        scan = engine.scan(b"", None, batch=10)
        rows = await anext(scan)
        odd.answer("PUT", "/wal/", NO_KEY)
        await queue.kv_put("zzz", b"last")
        async for more in scan:
            rows += more
        keys = [key for key, _ in rows]
        assert keys == sorted(set(keys))
        assert sum(b"key/" in key for key in keys) == 100


async def test_a_bucket_that_is_gone_for_a_while_is_waited_for(
    s3: FaultyS3, odd: Odd, caplog: pytest.LogCaptureFixture
) -> None:
    async with Queue.open(URL) as queue:
        await queue.enqueue("q", b"")
        s3.faults.add("no bucket")
        waiting = [asyncio.create_task(queue.enqueue("q", b"")) for _ in range(3)]
        await asyncio.sleep(2)
        assert not any(task.done() for task in waiting)
        s3.faults.clear()
        await asyncio.gather(*waiting)
        assert (await queue.stats("q")).pending == 4


async def test_a_bucket_that_stays_away_is_given_up_with_the_reason(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening, "PATIENCE", 1.0)
    queue = await Queue.open(URL)
    await queue.enqueue("q", b"")
    s3.faults.add("no bucket")
    with pytest.raises(StoreError, match="could not be opened again within 1 s") as caught:
        await queue.enqueue("q", b"")
    assert caught.value.permanent
    assert not isinstance(caught.value, StoreFenced)
    s3.faults.clear()
    await asyncio.gather(queue.close(), return_exceptions=True)
    async with Queue.open(URL) as queue:
        assert (await queue.stats("q")).pending in (1, 2)


async def test_an_owner_that_was_fenced_does_not_open_the_store_again(
    s3: FaultyS3, odd: Odd
) -> None:
    first = await Queue.open(URL)
    await first.enqueue("q", b"")
    second = await Queue.open(URL)
    writes = len([1 for method, _, _ in s3.requests if method == "PUT"])
    with pytest.raises(StoreFenced):
        await first.enqueue("q", b"")
    # Its own try to write, and nothing else.
    assert len([1 for method, _, _ in s3.requests if method == "PUT"]) <= writes + 1
    await second.enqueue("q", b"")
    await first.close()
    await second.close()


async def test_of_two_that_open_a_store_at_once_the_one_that_was_fenced_gives_way(
    s3: FaultyS3,
) -> None:
    location = StoreLocation.parse(URL)
    ids = IdGenerator(SystemClock())
    first = await Engine.open(location, fsync=False)
    second = await Engine.open(location, fsync=False)
    # It counts the opening of the other one here.
    await first.write([await first.mark(ids)])
    with pytest.raises(StoreFenced):
        await first.flush()
    await second.write([await second.mark(ids)])
    await second.flush()
    await first.close()
    await second.close()


async def test_another_owner_between_the_stop_and_the_opening_is_noticed(
    s3: FaultyS3, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that came and went after the manifest was looked at."""
    first = await Queue.open(URL)
    await first.enqueue("q", b"")
    check = reopening.Reopening._check_owner

    async def check_and_be_late(self: reopening.Reopening) -> None:
        await check(self)
        async with Queue.open(URL) as second:
            await second.enqueue("q", b"")

    monkeypatch.setattr(reopening.Reopening, "_check_owner", check_and_be_late)
    odd.answer("PUT", "/wal/", CONFLICT)
    with pytest.raises(StoreFenced):
        await first.enqueue("q", b"")
    await first.close()
    async with Queue.open(URL) as third:
        assert (await third.stats("q")).pending == 2
        await audit(third, idle=False)


async def test_another_owner_that_opens_meanwhile_is_not_fenced(
    s3: FaultyS3, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await Queue.open(URL)
    await first.enqueue("q", b"")
    check = reopening.Reopening._check_owner
    later: list[Queue] = []

    async def check_and_be_late(self: reopening.Reopening) -> None:
        await check(self)
        later.append(await Queue.open(URL))

    monkeypatch.setattr(reopening.Reopening, "_check_owner", check_and_be_late)
    odd.answer("PUT", "/wal/", CONFLICT)
    with pytest.raises(StoreFenced):
        await first.enqueue("q", b"")
    await first.close()
    monkeypatch.undo()
    (second,) = later
    async with second:
        await second.enqueue("q", b"")
        assert (await second.stats("q")).pending == 2


async def test_an_attempt_that_did_not_count_makes_no_room_for_another_owner(
    s3: FaultyS3, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await Queue.open(URL)
    await first.enqueue("q", b"")
    check = reopening.Reopening._check_owner
    checks = 0
    later: list[Queue] = []

    async def check_late(self: reopening.Reopening) -> None:
        nonlocal checks
        checks += 1
        if checks == 1:
            # The attempt after this fails before it has fenced anybody.
            odd.answer("PUT", "/manifest/", NO_KEY)
        if checks == 2:
            later.append(await Queue.open(URL))
        await check(self)

    monkeypatch.setattr(reopening.Reopening, "_check_owner", check_late)
    odd.answer("PUT", "/wal/", CONFLICT)
    with pytest.raises(StoreFenced):
        await first.enqueue("q", b"")
    assert checks == 2
    await first.close()
    monkeypatch.undo()
    (second,) = later
    async with second:
        await second.enqueue("q", b"")


@pytest.mark.parametrize("seed", range(40 if LONG else 2))
async def test_a_queue_works_over_a_store_that_answers_oddly_all_the_time(
    s3: FaultyS3, odd: Odd, seed: int
) -> None:
    """Every call comes true, though the engine stops many times, and never fails the queue."""
    rng = random.Random(seed)

    def sometimes(_method: str, _path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if rng.random() >= 0.01:
            return None
        answers = [(403, "AccessDenied"), (500, ""), (503, "SlowDown")]
        answers.append(CONFLICT if "If-None-Match" in headers else NO_KEY)
        return rng.choice(answers)

    settled: set[str] = set()
    enqueued: set[str] = set()
    until = time.monotonic() + (20 if LONG else 4)

    async def produce(queue: Queue, name: int) -> None:
        number = 0
        while time.monotonic() < until:
            number += 1
            job_id = f"{seed}-{name}-{number}"
            enqueued.add((await queue.enqueue("q", b"", job_id=job_id)).id)

    async def work(queue: Queue) -> None:
        while time.monotonic() < until or (await queue.stats("q")).pending:
            for job in await queue.claim_batch("q", 10):
                await queue.ack(job)
                assert job.id not in settled
                settled.add(job.id)
            await asyncio.sleep(0)

    logging.getLogger("taquba").setLevel(logging.ERROR)
    queue = await Queue.open(URL, payload_url="memory://")
    odd.rules.append(sometimes)
    try:
        await asyncio.gather(produce(queue, 1), produce(queue, 2), work(queue))
    finally:
        odd.rules.clear()
        logging.getLogger("taquba").setLevel(logging.NOTSET)
    assert settled == enqueued
    await queue.close()
    async with Queue.open(URL, payload_url="memory://") as queue:
        await audit(queue, idle=False)
