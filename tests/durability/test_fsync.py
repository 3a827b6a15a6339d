"""What is on disk when a call returns is enough to open the store and find its effect (I3)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from slatedb.uniffi import FlushOptions, FlushType

from taquba import EnqueueRequest, JobStatus, Queue, QueueConfig, SettlementEffects, StoreError
from taquba._objects.folder import DurableFolder
from taquba.testing import MockClock
from tests.crash.audit import audit
from tests.durability.recorder import Recorder, is_written_synchronously

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads names of descriptors from /proc"),
    pytest.mark.allow_blocking("the tests copy files at the very moment a call returns"),
]

TABLES = FlushOptions(flush_type=FlushType.MEM_TABLE)
KEEPS = QueueConfig(max_attempts=1, keep_done_jobs=3600)


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    recorder.old = frozenset((tmp_path, *tmp_path.parents))
    monkeypatch.setattr(os, "fsync", recorder.fsync)
    return recorder


class PowerLoss:
    """Takes copies of what is on disk, and opens them at the end."""

    def __init__(self, recorder: Recorder, root: Path, copies: Path) -> None:
        self.recorder = recorder
        self.root = root
        self.copies = copies
        self.expectations: list[tuple[Path, Callable[[Queue], Awaitable[None]]]] = []

    def now(self, expectation: Callable[[Queue], Awaitable[None]]) -> None:
        copy = self.copies / f"copy{len(self.expectations)}"
        self.recorder.copy_survivors(self.root, copy)
        self.expectations.append((copy, expectation))

    async def check(self) -> None:
        for copy, expectation in self.expectations:
            clock = MockClock(datetime.now(UTC))
            async with Queue.open(copy, default_config=KEEPS, clock=clock, fsync=False) as queue:
                await clock.advance(0)
                await audit(queue)
                await expectation(queue)


@pytest.fixture
def loss(recorder: Recorder, tmp_path: Path) -> PowerLoss:
    return PowerLoss(recorder, tmp_path / "store", tmp_path)


def holds(*job_ids: str) -> Callable[[Queue], Awaitable[None]]:
    async def check(queue: Queue) -> None:
        for job_id in job_ids:
            assert await queue.get_job(job_id) is not None, job_id

    return check


async def test_an_enqueued_job_is_on_disk_when_enqueue_returns(
    loss: PowerLoss, tmp_path: Path
) -> None:
    ids: list[str] = []
    async with Queue.open(tmp_path / "store") as queue:
        for number in range(8):
            ids.append((await queue.enqueue("q", b"%d" % number)).id)
            loss.now(holds(*ids))
    assert len(loss.expectations) == 8
    await loss.check()


async def test_jobs_of_concurrent_producers_are_on_disk_when_their_calls_return(
    loss: PowerLoss, tmp_path: Path
) -> None:
    ids: list[str] = []
    async with Queue.open(tmp_path / "store") as queue:

        async def produce() -> None:
            for _ in range(15):
                ids.append((await queue.enqueue("q", b"x" * 100)).id)
                if len(ids) % 25 == 0:
                    loss.now(holds(*ids))

        await asyncio.gather(*(produce() for _ in range(10)))
    assert len(loss.expectations) == 6
    await loss.check()


async def test_every_settlement_is_on_disk_when_its_call_returns(
    loss: PowerLoss, tmp_path: Path
) -> None:

    def has(job_id: str, status: JobStatus) -> Callable[[Queue], Awaitable[None]]:
        async def check(queue: Queue) -> None:
            job = await queue.get_job(job_id)
            assert job is not None
            assert job.status is status

        return check

    def lacks(job_id: str) -> Callable[[Queue], Awaitable[None]]:
        async def check(queue: Queue) -> None:
            assert await queue.get_job(job_id) is None

        return check

    def has_entry(key: str, value: bytes | None) -> Callable[[Queue], Awaitable[None]]:
        async def check(queue: Queue) -> None:
            assert await queue.kv_get(key) == value

        return check

    async with Queue.open(tmp_path / "store", default_config=KEEPS) as queue:
        ids = [
            result.id
            for result in await queue.enqueue_batch([EnqueueRequest("q", b"x") for _ in range(6)])
        ]
        loss.now(holds(*ids))
        claims = await queue.claim_batch("q", 4)
        follow = EnqueueRequest("follow", b"x", job_id="follow-up")
        effects = SettlementEffects(enqueues=[follow], kv_writes={"effect": b"1"})
        await queue.ack(claims[0], effects)
        loss.now(has(claims[0].id, JobStatus.DONE))
        loss.now(holds("follow-up"))
        loss.now(has_entry("effect", b"1"))
        await queue.nack(claims[1], "no luck")
        loss.now(has(claims[1].id, JobStatus.DEAD))
        await queue.dead_letter(claims[2], "hopeless")
        loss.now(has(claims[2].id, JobStatus.DEAD))
        await queue.requeue_dead(claims[2].id)
        loss.now(has(claims[2].id, JobStatus.PENDING))
        await queue.cancel(ids[5])
        loss.now(lacks(ids[5]))
        await queue.kv_put("entry", b"1")
        loss.now(has_entry("entry", b"1"))
        assert await queue.kv_compare_put("entry", b"1", b"2")
        loss.now(has_entry("entry", b"2"))
        await queue.kv_delete("entry")
        loss.now(has_entry("entry", None))
        later = await queue.enqueue("q", b"x", delay=3600)
        loss.now(has(later.id, JobStatus.SCHEDULED))
        await queue.wake_scheduled(later.id)
        loss.now(has(later.id, JobStatus.PENDING))
    await loss.check()


async def test_jobs_are_on_disk_across_flushes_of_tables(loss: PowerLoss, tmp_path: Path) -> None:
    ids: list[str] = []
    async with Queue.open(tmp_path / "store") as queue:
        for number in range(12):
            ids.append((await queue.enqueue("q", b"x" * 1000)).id)
            if number % 3 == 2:
                await queue._owner.engine._db.flush_with_options(TABLES)
                ids.append((await queue.enqueue("q", b"after a flush")).id)
                loss.now(holds(*ids))
    await loss.check()


async def test_jobs_are_on_disk_while_large_payloads_fill_tables(
    loss: PowerLoss, tmp_path: Path
) -> None:
    ids: list[str] = []
    async with Queue.open(tmp_path / "store") as queue:
        # More than a table holds, so that the engine writes some by itself meanwhile.
        for number in range(24):
            ids.append((await queue.enqueue("q", os.urandom(2 * 1024 * 1024))).id)
            if number % 6 == 5:
                loss.now(holds(*ids))
    assert any((tmp_path / "store" / "compacted").iterdir())
    await loss.check()


async def test_large_payloads_and_objects_are_on_disk_when_their_calls_return(
    recorder: Recorder, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    copies: list[tuple[Path, str, str]] = []
    async with Queue.open(root / "store", payload_offload_threshold=10) as queue:
        for number in range(4):
            job_id, _ = await queue.enqueue("q", b"x" * 100)
            key = f"folder-{number % 2}/{number}"
            await queue.objects.put(key, b"y")
            copies.append((tmp_path / f"copy{number}", job_id, key))
            recorder.copy_survivors(root, copies[-1][0])
    for copy, job_id, key in copies:
        async with Queue.open(copy / "store", fsync=False) as queue:
            job = await queue.get_job(job_id)
            assert job is not None
            assert job.payload == b"x" * 100
            assert await queue.objects.get(key) == b"y"


async def test_jobs_are_on_disk_after_restarts(loss: PowerLoss, tmp_path: Path) -> None:
    ids: list[str] = []
    for _ in range(4):
        async with Queue.open(tmp_path / "store") as queue:
            loss.now(holds(*ids))
            ids.append((await queue.enqueue("q", b"x")).id)
            loss.now(holds(*ids))
        loss.now(holds(*ids))
    await loss.check()


async def test_what_an_owner_without_fsync_wrote_is_on_disk_once_one_with_it_has_opened(
    loss: PowerLoss, tmp_path: Path
) -> None:
    ids: list[str] = []
    fenced = await Queue.open(tmp_path / "store", fsync=False)
    ids.extend([(await fenced.enqueue("q", b"x")).id for _ in range(5)])
    async with Queue.open(tmp_path / "store", take_over=True):
        loss.now(holds(*ids))
        await fenced.close()
    await loss.check()


async def test_a_file_is_synced_before_its_folder_and_both_before_the_acknowledgement(
    recorder: Recorder, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    async with Queue.open(store) as queue:
        for _ in range(5):
            recorder.calls.clear()
            await queue.enqueue("q", b"x")
            calls = [
                path for path in recorder.calls if path == store / "wal" or "wal" in path.parts
            ]
            assert [path.suffix for path in calls] == [".sst", ""]
            assert calls[1] == store / "wal"


async def test_without_fsync_nothing_is_synced(recorder: Recorder, tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store", fsync=False) as queue:
        await queue.enqueue("q", b"x")
        await queue._owner.engine._db.flush_with_options(TABLES)
        await queue.enqueue("q", b"x")
    assert recorder.calls == []
    for folder in (tmp_path / "store").iterdir():
        assert not is_written_synchronously(folder)


async def test_memory_stores_sync_nothing(recorder: Recorder) -> None:
    async with Queue.open("memory://") as queue:
        await queue.enqueue("q", b"x")
    assert recorder.calls == []


@pytest.mark.parametrize("fsync", [True, False])
async def test_a_missing_folder_is_made_with_its_parents(
    recorder: Recorder, tmp_path: Path, fsync: bool
) -> None:
    store = tmp_path / "a" / "b" / "store"
    async with Queue.open(store, fsync=fsync) as queue:
        job = await queue.enqueue("q", b"x")
        if fsync:
            # So are their names, each in its parent.
            assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(recorder.calls)
            recorder.copy_survivors(store, tmp_path / "copy")
    if fsync:
        async with Queue.open(tmp_path / "copy") as queue:
            assert await queue.get_job(job.id) is not None


async def test_a_folder_with_other_files_in_it_can_be_a_store(
    loss: PowerLoss, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    (store / "wal").mkdir(parents=True)
    (store / "notes.txt").write_text("mine")
    (store / "wal" / "notes.txt").write_text("mine")
    async with Queue.open(store) as queue:
        job = await queue.enqueue("q", b"x")
        loss.now(holds(job.id))
    assert (store / "notes.txt").read_text() == "mine"
    await loss.check()


async def test_an_fsync_that_fails_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await Queue.open(tmp_path / "store")
    await queue.enqueue("q", b"x")
    real = os.fsync

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    # After a failed fsync the kernel may have dropped the data: no later one makes it good.
    for _ in range(2):
        with pytest.raises(StoreError, match=r"the disk of .* fails") as caught:
            await queue.enqueue("q", b"x")
        assert caught.value.permanent
        monkeypatch.setattr(os, "fsync", real)
    await queue.close()


def test_a_file_that_cannot_be_opened_is_not_taken_for_a_synced_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DurableFolder(tmp_path)
    folder.prepare()
    folder.sync_all()
    (tmp_path / "wal" / f"{1:020d}.sst").write_bytes(b"x")
    real = os.open

    def fails(path: str, *args: int) -> int:
        if str(path).endswith(".sst"):
            raise OSError(24, "Too many open files", path)
        return real(path, *args)

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match="Too many open files"):
        folder.sync()
