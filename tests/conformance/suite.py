"""What every store must do: a backend subclasses `StoreConformance` and says where it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from slatedb.uniffi import AdminBuilder

from taquba import (
    MAX_KV_VALUE_SIZE,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    AttemptOutcome,
    CancelOutcome,
    ClaimLost,
    DuplicateJobId,
    EnqueueRequest,
    InboxConfig,
    InboxNotOpen,
    JobRecord,
    JobStatus,
    LeaseHandle,
    ObjectDamaged,
    PayloadDamaged,
    Producer,
    Queue,
    QueueConfig,
    QueueReader,
    SettlementEffects,
    StoreFenced,
    StoreNotInitialized,
    WakeOutcome,
    run_worker,
)
from taquba._engine.object_store import connect_engine
from taquba._objects.location import StoreLocation
from taquba.testing import MockClock
from tests.crash.audit import audit
from tests.crash.children import ChildProcess, Ledger, read_reports
from tests.crash.worker_child import CONFIG
from tests.inbox.support import contents, inbox_at, names, rejected
from tests.payloads.support import DAMAGES, damage, payload_objects, put_right
from tests.queue.support import claimed_ids, kill_job, leftovers, must_claim

IN_TIME = 10
"""Seconds within which a call on a store that works, or is fenced, must have ended."""

Mode = Literal["checkpoint", "follow_latest"]
both_modes = pytest.mark.parametrize("mode", ["checkpoint", "follow_latest"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """A reader looks at the store in its own time: there is no event to wait for."""
    async with asyncio.timeout(IN_TIME):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def acknowledged(log: Path, count: int = 20) -> None:
    """Wait until a child has acknowledged that many jobs."""
    async with asyncio.timeout(30):
        while sum(kind == "acked" for kind, *_ in read_reports(log)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def counts(queue: Queue, name: str) -> dict[str, int]:
    """Counters of a queue that are not zero."""
    stats = await queue.stats(name)
    return {field: value for field, value in asdict(stats).items() if value}


class StoreConformance:
    """The behaviour of a queue and its readers, on one kind of store."""

    @pytest.fixture
    def url(self) -> str:
        """Where no store is yet. More of them may be made below it, at ``{url}/name``."""
        raise NotImplementedError

    @pytest.fixture
    async def clock(self) -> MockClock:
        return MockClock(datetime(2030, 1, 1, tzinfo=UTC))

    @pytest.fixture
    async def queue(self, url: str, clock: MockClock) -> AsyncIterator[Queue]:
        config = QueueConfig(max_attempts=2, retry_backoff_base=60, retry_jitter=0)
        async with Queue.open(url, default_config=config, clock=clock) as queue:
            yield queue

    # -- a job's life -----------------------------------------------------------------------

    async def test_a_job_is_enqueued_claimed_and_done(self, queue: Queue) -> None:
        result = await queue.enqueue("q", b"payload \x00\xff", headers={"k": "ü"})
        assert result.new
        claim = await must_claim(queue)
        assert (claim.id, claim.payload, claim.headers) == (
            result.id,
            b"payload \x00\xff",
            {"k": "ü"},
        )
        assert await queue.claim("q") is None
        await queue.ack(claim)
        assert await queue.get_job(claim.id) is None
        assert await counts(queue, "q") == {"done": 1}
        with pytest.raises(ClaimLost):
            await queue.ack(claim)

    async def test_jobs_are_claimed_by_priority_then_in_order(self, queue: Queue) -> None:
        normal = [(await queue.enqueue("q", b"")).id for _ in range(3)]
        low = (await queue.enqueue("q", b"", priority=PRIORITY_LOW)).id
        high = (await queue.enqueue("q", b"", priority=PRIORITY_HIGH)).id
        first = await queue.claim_batch("q", 2)
        assert [claim.id for claim in first] == [high, normal[0]]
        assert await claimed_ids(queue) == [*normal[1:], low]

    async def test_a_dedup_key_holds_until_the_job_is_claimed(self, queue: Queue) -> None:
        first = await queue.enqueue("q", b"1", dedup_key="key", kv_writes={"kv": b"1"})
        again = await queue.enqueue("q", b"2", dedup_key="key", kv_writes={"kv": b"2"})
        assert again.id == first.id
        assert not again.new
        assert await queue.kv_get("kv") == b"1"
        await must_claim(queue)
        assert (await queue.enqueue("q", b"3", dedup_key="key")).new

    async def test_a_batch_lands_whole_or_not_at_all(self, queue: Queue) -> None:
        await queue.enqueue("a", b"", job_id="taken")
        with pytest.raises(DuplicateJobId):
            await queue.enqueue_batch(
                [EnqueueRequest("b", b""), EnqueueRequest("c", b"", job_id="taken")]
            )
        assert await queue.list_queues() == ["a"]
        requests = [
            EnqueueRequest(f"q{n % 3}", b"x" * n, delay=n % 2 * 60, dedup_key=f"{n}")
            for n in range(300)
        ]
        results = await queue.enqueue_batch(requests)
        assert len({result.id for result in results}) == 300
        for name in ("q0", "q1", "q2"):
            assert await counts(queue, name) == {"pending": 50, "scheduled": 50}

    async def test_a_failing_job_is_retried_then_dead_then_requeued(
        self, queue: Queue, clock: MockClock
    ) -> None:
        job = await queue.enqueue("q", b"x")
        effects = SettlementEffects(kv_writes={"dead": b"1"})
        assert (await queue.nack(await must_claim(queue), "first", effects)).retried
        assert await queue.kv_get("dead") is None
        assert await queue.claim("q") is None
        await clock.advance(60)
        assert (await queue.nack(await must_claim(queue), "second", effects)).dead_lettered
        assert await queue.kv_get("dead") == b"1"
        (dead,) = (await queue.dead_jobs("q")).jobs
        assert (dead.id, dead.status) == (job.id, JobStatus.DEAD)
        assert [(entry.outcome, entry.error) for entry in await queue.attempt_history(job.id)] == [
            (AttemptOutcome.RETRIED, "first"),
            (AttemptOutcome.DEAD_LETTERED, "second"),
        ]
        await queue.requeue_dead(job.id)
        await queue.ack(await must_claim(queue))
        assert await counts(queue, "q") == {"done": 1}

    async def test_a_settlement_and_its_effects_are_one_commit(self, queue: Queue) -> None:
        await queue.kv_put("gone", b"x")
        await queue.enqueue("q", b"x")
        held = await queue.enqueue("next", b"", dedup_key="key")
        effects = SettlementEffects(
            enqueues=[
                EnqueueRequest("next", b"1"),
                EnqueueRequest("next", b"2", dedup_key="key"),
                EnqueueRequest("next", b"3", delay=60),
            ],
            kv_writes={"kept": b"y"},
            kv_deletes=["gone"],
        )
        first, second, third = await queue.ack(await must_claim(queue), effects)
        assert (first.new, second.new, third.new) == (True, False, True)
        assert second.id == held.id
        assert await counts(queue, "next") == {"pending": 2, "scheduled": 1}
        assert await queue.kv_get("kept") == b"y"
        assert await queue.kv_get("gone") is None

    async def test_scheduled_jobs_start_at_their_time_or_when_woken(
        self, queue: Queue, clock: MockClock
    ) -> None:
        later = await queue.enqueue("q", b"later", run_at=clock.now() + timedelta(hours=1))
        soon = await queue.enqueue("q", b"soon", delay=60)
        woken = await queue.enqueue("q", b"woken", delay=3600)
        assert await queue.claim("q") is None
        await clock.advance(60)
        assert await claimed_ids(queue) == [soon.id]
        assert await queue.wake_scheduled(woken.id, b"why") is WakeOutcome.WOKEN
        assert (await must_claim(queue)).wake_payload == b"why"
        assert await queue.wake_scheduled(woken.id) is WakeOutcome.NOT_SCHEDULED
        await clock.advance(3600)
        # The leases of the first two ran out meanwhile: the jobs are back.
        assert later.id in await claimed_ids(queue)

    async def test_cancel_removes_what_waits_and_asks_what_runs(self, queue: Queue) -> None:
        waiting = await queue.enqueue("q", b"", delay=60)
        running = await queue.enqueue("q", b"")
        claim = await must_claim(queue)
        assert await queue.cancel(waiting.id) is CancelOutcome.REMOVED
        assert await queue.cancel(running.id) is CancelOutcome.REQUESTED
        assert await queue.cancel("nobody") is CancelOutcome.NOT_FOUND
        assert claim.cancel_token.cancelled
        await queue.ack(claim)
        assert not await leftovers(queue)

    async def test_an_expired_lease_gives_the_job_back(
        self, queue: Queue, clock: MockClock
    ) -> None:
        await queue.enqueue("q", b"x")
        lost = await queue.claim("q", lease=30)
        assert lost is not None
        await clock.advance(31)
        again = await must_claim(queue)
        assert again.attempts == 2
        with pytest.raises(ClaimLost):
            await queue.ack(lost)
        await queue.ack(again)

    async def test_done_and_dead_jobs_go_when_they_are_old(
        self, url: str, clock: MockClock
    ) -> None:
        config = QueueConfig(max_attempts=1, keep_done_jobs=60, dead_retention=120)
        async with Queue.open(url, default_config=config, clock=clock) as queue:
            done = await queue.enqueue("q", b"")
            await queue.ack(await must_claim(queue))
            await queue.enqueue("q", b"")
            dead = await kill_job(queue)
            record = await queue.get_job(done.id)
            assert record is not None
            assert record.status is JobStatus.DONE
            await clock.advance(61)
            await queue.sweep_now()
            assert await queue.get_job(done.id) is None
            assert await queue.get_job(dead) is not None
            await clock.advance(60)
            await queue.sweep_now()
            assert not await leftovers(queue)

    async def test_many_producers_and_workers_lose_and_repeat_nothing(self, url: str) -> None:
        jobs, producers = 400, 20
        seen: list[int] = []
        stop = asyncio.Event()

        async def handle(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
            seen.append(int(job.payload))
            if len(seen) == jobs:
                stop.set()
            return SettlementEffects(kv_writes={f"done/{job.payload.decode()}": b""})

        async with Queue.open(url) as queue:
            numbers = iter(range(jobs))

            async def produce() -> None:
                for number in numbers:
                    await queue.enqueue("q", str(number).encode())

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(run_worker(queue, "q", handle, concurrency=20, shutdown=stop))
                for _ in range(producers):
                    group.create_task(produce())
            assert sorted(seen) == list(range(jobs))
            state = await audit(queue)
            assert state.counters["q"] == (0, 0, 0, jobs, 0)
            assert len(state.kv) == jobs

    # -- key-value entries ------------------------------------------------------------------

    async def test_compare_puts_at_once_lose_no_step(self, queue: Queue) -> None:
        assert await queue.kv_compare_put("n", None, b"0")
        assert not await queue.kv_compare_put("n", None, b"0")

        async def step() -> None:
            while True:
                value = await queue.kv_get("n")
                assert value is not None
                if await queue.kv_compare_put("n", value, str(int(value) + 1).encode()):
                    return

        await asyncio.gather(*(step() for _ in range(10)))
        assert await queue.kv_get("n") == b"10"
        assert not await queue.kv_compare_delete("n", b"9")
        assert await queue.kv_compare_delete("n", b"10")
        assert await queue.kv_get("n") is None

    async def test_entries_are_scanned_in_pages(self, queue: Queue) -> None:
        names = [f"p/{number:03}" for number in range(25)]
        await asyncio.gather(*(queue.kv_put(name, name.encode()) for name in names))
        await queue.kv_put("other", bytes(MAX_KV_VALUE_SIZE))
        found: dict[str, bytes] = {}
        cursor = None
        pages = 0
        while pages == 0 or cursor is not None:
            page = await queue.kv_scan("p/", cursor, limit=10)
            found.update(page.entries)
            cursor = page.next_cursor
            pages += 1
        assert list(found) == names
        assert pages == 3
        assert await queue.kv_get("other") == bytes(MAX_KV_VALUE_SIZE)

    # -- large payloads and objects -----------------------------------------------------------

    async def test_a_large_payload_is_an_object_until_its_job_is_done(self, url: str) -> None:
        small, large = os.urandom(1000), os.urandom(3_000_000)
        async with Queue.open(url, payload_offload_threshold=1000) as queue:
            await queue.enqueue_batch([EnqueueRequest("q", small), EnqueueRequest("q", large)])
            assert len(await payload_objects(queue)) == 1
        async with Queue.open(url, payload_offload_threshold=1000) as queue:
            async with QueueReader.open(url) as reader:
                seen = (await reader.list_jobs("q", "pending")).jobs
                assert [job.payload for job in seen] == [small, large]
            claims = await queue.claim_batch("q", 2)
            assert [claim.payload for claim in claims] == [small, large]
            for claim in claims:
                await queue.ack(claim)
            assert await payload_objects(queue) == set()

    async def test_many_large_payloads_at_once_keep_apart(self, url: str) -> None:
        contents = [bytes([number]) * (2000 + number) for number in range(40)]
        async with Queue.open(url, payload_offload_threshold=1000) as queue:
            requests = [EnqueueRequest("q", content) for content in contents]
            jobs = await queue.enqueue_batch(requests)
            assert await queue.cancel(jobs[0].id) is CancelOutcome.REMOVED
            claims = await queue.claim_batch("q", 40)
            assert [claim.payload for claim in claims] == contents[1:]
            await asyncio.gather(*(queue.ack(claim) for claim in claims))
            assert await payload_objects(queue) == set()

    async def test_objects_of_the_caller_are_kept_read_listed_and_deleted(self, url: str) -> None:
        large = os.urandom(3_000_000)
        async with Queue.open(url) as queue:
            await queue.objects.put("a/1", b"first")
            await queue.objects.put("a/1", large)
            await queue.objects.put("a/b/2", b"")
            await queue.objects.put("ab", b"other")
        async with Queue.open(url) as queue, QueueReader.open(url) as reader:
            assert await reader.objects.get("a/1") == large
            assert await queue.objects.get("a/b/2") == b""
            assert await queue.objects.get("a/3") is None
            listed = {info.key: info.size async for info in queue.objects.list("a")}
            assert listed == {"a/1": len(large), "a/b/2": 0}
            await queue.objects.delete(["a/1", "a/b/2", "never-there"])
            assert [info.key async for info in queue.objects.list()] == ["ab"]

    async def test_an_objects_key_may_be_the_beginning_of_another(self, url: str) -> None:
        names = ["a", "a/b", "a/b/c", "x" * 250, "x" * 250 + "/" + "y" * 250]
        async with Queue.open(url) as queue:
            # In both orders, for a file cannot become a folder, nor a folder a file.
            for name in (*names, *reversed(names)):
                await queue.objects.put(name, name.encode())
            assert [await queue.objects.get(name) for name in names] == [n.encode() for n in names]
            assert sorted([info.key async for info in queue.objects.list()]) == names
            assert sorted([info.key async for info in queue.objects.list("a")]) == ["a/b", "a/b/c"]
            await queue.objects.delete(["a/b"])
            await queue.objects.delete(["a"])
            assert [info.key async for info in queue.objects.list("a")] == ["a/b/c"]

    async def test_objects_that_are_damaged_are_refused(self, url: str, clock: MockClock) -> None:
        content = os.urandom(5000)
        async with Queue.open(url, payload_offload_threshold=1000, clock=clock) as queue:
            job_id, _ = await queue.enqueue("q", content)
            await queue.objects.put("a/b", content)
            for change in DAMAGES.values():
                before = await damage(queue, "/", change)
                with pytest.raises(ObjectDamaged, match="'a/b' is damaged"):
                    await queue.objects.get("a/b")
                assert await queue.claim("q") is None
                found = await queue.get_job(job_id)
                assert found is not None
                with pytest.raises(PayloadDamaged, match=f"{job_id}' is damaged"):
                    found.payload  # noqa: B018 - reading it is what raises
                await put_right(queue, before)
                if found.status is JobStatus.DEAD:
                    await queue.requeue_dead(job_id)
                await clock.advance(3600)
                assert await queue.objects.get("a/b") == content
            assert (await must_claim(queue, "q")).payload == content

    # -- looking ----------------------------------------------------------------------------

    async def test_stats_and_listings_agree(self, queue: Queue, clock: MockClock) -> None:
        for _ in range(4):
            await queue.enqueue("q", b"")
        await queue.enqueue("q", b"", delay=60)
        await kill_job(queue)
        await must_claim(queue)
        assert await counts(queue, "q") == {"pending": 2, "scheduled": 1, "claimed": 1, "dead": 1}
        for status, count in (("pending", 2), ("scheduled", 1), ("claimed", 1), ("dead", 1)):
            first = await queue.list_jobs("q", status, limit=1)
            rest = await queue.list_jobs("q", status, first.next_cursor) if count > 1 else first
            assert len({job.id for job in (*first.jobs, *rest.jobs)}) == count

    async def test_waiting_for_completion_ends_with_the_job(self, queue: Queue) -> None:
        job = await queue.enqueue("q", b"")
        waiting = asyncio.create_task(queue.wait_for_completion(job.id, IN_TIME))
        await queue.ack(await must_claim(queue))
        assert (await waiting).completed

    # -- closing, crashing, fencing -----------------------------------------------------------

    async def test_a_clean_reopen_finds_everything(self, url: str, clock: MockClock) -> None:
        config = QueueConfig(keep_done_jobs=3600)
        async with Queue.open(url, default_config=config, clock=clock) as queue:
            await queue.enqueue("q", b"done")
            await queue.ack(await must_claim(queue))
            await queue.enqueue("q", b"dead")
            await kill_job(queue)
            pending = await queue.enqueue_batch([EnqueueRequest("q", b"x" * 500)] * 100)
            await queue.enqueue("q", b"later", delay=60, dedup_key="key")
            claim = await must_claim(queue)
            await queue.kv_put("kv", b"value")
            before = await audit(queue)
        async with Queue.open(url, default_config=config, clock=clock) as queue:
            await clock.advance(0)
            after = await audit(queue)
            # The claim ended with its owner; nothing else changed.
            assert after.jobs.keys() == before.jobs.keys()
            assert after.kv == before.kv
            assert await counts(queue, "q") == {
                "pending": 100,
                "scheduled": 1,
                "done": 1,
                "dead": 1,
            }
            (entry,) = await queue.attempt_history(claim.id)
            assert entry.outcome is AttemptOutcome.INTERRUPTED
            assert await claimed_ids(queue) == [result.id for result in pending]
            assert not (await queue.enqueue("q", b"", dedup_key="key")).new

    async def test_nothing_acknowledged_is_lost_when_the_owner_dies(
        self, url: str, tmp_path: Path
    ) -> None:
        ledger = Ledger()
        for number in range(2):
            async with self.dead_owner(url, tmp_path / f"log{number}", number) as reports:
                ledger.read(reports)
                await self.examine(url, ledger)

    @contextlib.asynccontextmanager
    async def dead_owner(self, url: str, log: Path, seed: int) -> AsyncIterator[list[list[str]]]:
        """Let an owner work, and kill it; what it was told until then."""
        with ChildProcess(url, log, seed, fsync=True) as child:
            child.go()
            await acknowledged(log)
            child.kill()
            yield child.reports()

    @staticmethod
    async def examine(url: str, ledger: Ledger) -> None:
        """Open the store as its next owner, and check everything that was promised."""
        # A clock that stands still: nothing is promoted, retried or swept while rows are read.
        clock = MockClock(datetime.now(UTC))
        async with Queue.open(url, default_config=CONFIG, clock=clock, take_over=True) as queue:
            await clock.advance(0)
            state = await audit(queue)
            assert state.entries("acked/")
            ledger.check(state)

    async def test_a_second_owner_fences_the_first(self, url: str, clock: MockClock) -> None:
        old = await Queue.open(url, clock=clock)
        first = await old.enqueue("q", b"1")
        claim = await must_claim(old)
        waiting = asyncio.create_task(old.claim("empty", wait=3600))
        async with Queue.open(url, clock=clock, take_over=True) as new:
            before = await audit(new)
            calls = (old.enqueue("q", b"2"), old.ack(claim), old.kv_put("kv", b""), waiting)
            for call in calls:
                with pytest.raises(StoreFenced):
                    await asyncio.wait_for(call, IN_TIME)
            await asyncio.wait_for(old.close(), IN_TIME)
            assert (await audit(new)).rows == before.rows
            again = await must_claim(new)
            assert again.id == first.id
            await new.ack(again)

    async def test_an_owner_at_work_stops_when_it_is_fenced(self, url: str) -> None:
        old = await Queue.open(url)
        acknowledged: set[str] = set()
        at_work = asyncio.Event()

        async def produce() -> None:
            while True:
                acknowledged.add((await old.enqueue("q", b"x")).id)
                at_work.set()

        producers = [asyncio.create_task(produce()) for _ in range(5)]
        await asyncio.wait_for(at_work.wait(), IN_TIME)
        async with Queue.open(url, take_over=True) as new:
            at_once = await audit(new)
            done, late = await asyncio.wait(producers, timeout=IN_TIME)
            assert not late
            assert all(isinstance(task.exception(), StoreFenced) for task in done)
            assert acknowledged <= at_once.jobs.keys()
            assert (await audit(new)).rows == at_once.rows
            await asyncio.wait_for(old.close(), IN_TIME)

    async def test_stores_beside_each_other_share_nothing(self, url: str) -> None:
        names = (f"{url}/a", f"{url}/a2", f"{url}/b/c")
        async with contextlib.AsyncExitStack() as stack:
            queues = [await stack.enter_async_context(Queue.open(name)) for name in names]
            for queue, name in zip(queues, names, strict=True):
                await queue.enqueue("q", name.encode())
        for name in names:
            async with Queue.open(name) as queue:
                claim = await must_claim(queue)
                assert claim.payload == name.encode()
                assert await queue.claim("q") is None

    # -- readers ----------------------------------------------------------------------------

    @both_modes
    async def test_a_reader_sees_what_the_owner_committed(
        self, url: str, queue: Queue, mode: Mode
    ) -> None:
        waiting = await queue.enqueue("q", b"x" * 1000, headers={"k": "v"})
        dead = await queue.enqueue("dying", b"x")
        await kill_job(queue, "dying")
        await queue.kv_put("kv/1", b"1")
        async with QueueReader.open(url, mode=mode, poll_interval=0.05) as reader:
            assert await reader.list_queues() == await queue.list_queues()
            for name in ("q", "dying", "unused"):
                assert await reader.stats(name) == await queue.stats(name)
            for job_id in (waiting.id, dead.id):
                assert await reader.get_job(job_id) == await queue.get_job(job_id)
                assert await reader.attempt_history(job_id) == await queue.attempt_history(job_id)
            assert await reader.dead_jobs("dying") == await queue.dead_jobs("dying")
            assert await reader.kv_scan("kv/") == await queue.kv_scan("kv/")

            await queue.enqueue("q", b"more")

            async def sees_more() -> bool:
                return (await reader.stats("q")).pending == 2

            await until(sees_more)
        # It did not fence the owner.
        await queue.enqueue("q", b"x")

    @both_modes
    async def test_a_reader_of_a_store_without_an_owner(self, url: str, mode: Mode) -> None:
        with pytest.raises(StoreNotInitialized):
            await asyncio.wait_for(QueueReader.open(url, mode=mode), IN_TIME)
        async with Queue.open(url) as queue:
            job = await queue.enqueue("q", b"x")
        async with QueueReader.open(url, mode=mode) as reader:
            record = await reader.get_job(job.id)
            assert record is not None
            assert record.payload == b"x"

    async def test_a_reader_removes_its_checkpoint(self, url: str, queue: Queue) -> None:
        location = StoreLocation.parse(url)
        admin = AdminBuilder(location.path, connect_engine(location, read_only=True)).build()
        async with QueueReader.open(url, mode="checkpoint"):
            assert len(await admin.list_checkpoints(None)) == 1
        assert await admin.list_checkpoints(None) == []
        async with QueueReader.open(url, mode="follow_latest"):
            assert await admin.list_checkpoints(None) == []

    @both_modes
    async def test_a_reader_sees_signs_of_life(self, url: str, mode: Mode) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        async with (
            Queue.open(url, heartbeat_interval=0.1) as queue,
            QueueReader.open(url, mode=mode, poll_interval=0.05) as reader,
        ):
            beats: set[datetime] = set()

            async def beats_twice() -> bool:
                beat = await reader.writer_heartbeat()
                beats.update([beat] if beat is not None else [])
                return len(beats) >= 2

            await until(beats_twice)
            assert min(beats) > before
            assert await reader.last_store_activity() is None
            await queue.enqueue("q", b"")

            async def was_active() -> bool:
                activity = await reader.last_store_activity()
                return activity is not None and activity > before

            await until(was_active)

    # -- producers in other processes -------------------------------------------------------

    async def test_what_a_producer_puts_into_the_inbox_is_taken_once(
        self, url: str, clock: MockClock
    ) -> None:
        asleep = InboxConfig(poll_interval=timedelta(days=1))
        async with (
            Queue.open(url, inbox=asleep, clock=clock) as queue,
            Producer.open(url, clock=clock) as producer,
        ):
            batch = await producer.enqueue_batch(
                [EnqueueRequest("q", b"1"), EnqueueRequest("q", bytes(300_000))]
            )
            key = await producer.enqueue("q", b"3", idempotency_key="key")
            inbox = await inbox_at(url)
            sent = await contents(inbox)
            await inbox.put("foreign", b"foreign")
            await queue.ingest_now()
            assert await names(inbox) == []
            assert list(await rejected(inbox)) == ["foreign"]
            for name, data in sent.items():
                await inbox.put(name, data)
            await producer.enqueue("q", b"3", idempotency_key="key")
            await queue.ingest_now()
            assert await names(inbox) == []
            found = {claim.id: claim.payload for claim in await queue.claim_batch("q", 10)}
        assert found == {batch[0].id: b"1", batch[1].id: bytes(300_000), key.id: b"3"}

    async def test_a_place_without_an_inbox_is_refused(self, url: str, clock: MockClock) -> None:
        with pytest.raises(InboxNotOpen, match="inbox=True"):
            await Producer.open(url)
        async with Queue.open(url, clock=clock):
            with pytest.raises(InboxNotOpen, match="inbox=True"):
                await Producer.open(url)
