from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from taquba import (
    IncompatibleStore,
    InvalidArgument,
    JobStatus,
    PayloadMissing,
    Queue,
    QueueClosed,
    QueueConfig,
    QueueReader,
    SettlementEffects,
    StoreNotInitialized,
)
from taquba._model import keys
from taquba._model.codec import decode_counters
from tests.payloads.support import payload_objects, remove_payload

Mode = Literal["checkpoint", "follow_latest"]
MODES: list[Mode] = ["checkpoint", "follow_latest"]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """A reader looks at the store in its own time: there is no event to wait for."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Queue]:
    config = QueueConfig(max_attempts=1, keep_done_jobs=3600)
    async with Queue.open(tmp_path / "store", default_config=config) as queue:
        yield queue


@pytest.mark.parametrize("mode", MODES)
async def test_a_reader_sees_what_the_owner_sees(owner: Queue, tmp_path: Path, mode: Mode) -> None:
    pending = await owner.enqueue("a", b"1", headers={"k": "v"})
    scheduled = await owner.enqueue("b", b"2", delay=3600)
    failing = await owner.enqueue("dying", b"3")
    claim = await owner.claim("dying")
    assert claim is not None
    await owner.nack(claim, "boom")
    done = await owner.enqueue("kept", b"4")
    claim = await owner.claim("kept")
    assert claim is not None
    await owner.ack(claim, SettlementEffects(kv_writes={"kv/1": b"x", "kv/2": b"y"}))

    async with QueueReader.open(tmp_path / "store", mode=mode, poll_interval=0.05) as reader:
        assert await reader.list_queues() == await owner.list_queues()
        for name in ("a", "b", "dying", "kept", "unused"):
            assert await reader.stats(name) == await owner.stats(name)
        for result in (pending, scheduled, failing, done):
            assert await reader.get_job(result.id) == await owner.get_job(result.id)
            assert await reader.attempt_history(result.id) == await owner.attempt_history(result.id)
        assert await reader.list_jobs("b", "scheduled") == await owner.list_jobs("b", "scheduled")
        assert await reader.dead_jobs("dying") == await owner.dead_jobs("dying")
        assert await reader.kv_get("kv/1") == b"x"
        assert await reader.kv_scan("kv/") == await owner.kv_scan("kv/")
        assert await reader.get_job("none") is None


@pytest.mark.parametrize("mode", MODES)
async def test_a_reader_follows_the_owner(owner: Queue, tmp_path: Path, mode: Mode) -> None:
    await owner.enqueue("a", b"1")
    async with QueueReader.open(tmp_path / "store", mode=mode, poll_interval=0.02) as reader:
        await owner.enqueue("a", b"2")

        async def sees_both() -> bool:
            return (await reader.stats("a")).pending == 2

        await until(sees_both)


async def test_a_reader_does_not_fence_the_owner(owner: Queue, tmp_path: Path) -> None:
    async with QueueReader.open(tmp_path / "store"):
        await owner.enqueue("a", b"1")
    await owner.enqueue("a", b"2")
    assert (await owner.stats("a")).pending == 2


async def test_closing_a_reader_removes_its_checkpoint(owner: Queue, tmp_path: Path) -> None:
    from slatedb.uniffi import AdminBuilder, ObjectStoreBuilder, ObjectStoreType

    builder = ObjectStoreBuilder(ObjectStoreType.LOCAL)
    builder.with_config("local_path", str(tmp_path / "store"))
    admin = AdminBuilder("", builder.build()).build()

    async with QueueReader.open(tmp_path / "store", mode="checkpoint"):
        assert len(await admin.list_checkpoints(None)) == 1
    assert await admin.list_checkpoints(None) == []
    async with QueueReader.open(tmp_path / "store", mode="follow_latest"):
        assert await admin.list_checkpoints(None) == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_place_without_a_store_is_named(tmp_path: Path, mode: Mode) -> None:
    for url in (str(tmp_path / "nothing"), str(tmp_path), "memory://never-opened"):
        with pytest.raises(StoreNotInitialized, match=url):
            await QueueReader.open(url, mode=mode)
    assert not (tmp_path / "nothing").exists()


async def test_another_layout_is_refused(tmp_path: Path) -> None:
    async with Queue.open(tmp_path / "store") as queue:
        await queue._owner.engine.write([(keys.META, b"\x92\x63\x00")])
    with pytest.raises(IncompatibleStore, match="layout 99"):
        await QueueReader.open(tmp_path / "store")


async def test_a_bad_mode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="'latest'"):
        QueueReader.open("memory://x", mode="latest")  # type: ignore[arg-type]


async def test_a_closed_reader_says_so(owner: Queue, tmp_path: Path) -> None:
    await owner.enqueue("a", b"1")
    reader = await QueueReader.open(tmp_path / "store")
    await reader.close()
    await reader.close()
    with pytest.raises(QueueClosed):
        await reader.stats("a")


async def test_signs_of_life(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with Queue.open(tmp_path / "quiet") as queue:
        await queue.enqueue("a", b"")
        async with QueueReader.open(tmp_path / "quiet") as reader:
            assert await reader.writer_heartbeat() is None
            activity = await reader.last_store_activity()
            assert activity is not None
            assert before < activity < datetime.now(UTC) + timedelta(seconds=1)
    async with (
        Queue.open(tmp_path / "beating", heartbeat_interval=0.05),
        QueueReader.open(tmp_path / "beating", poll_interval=0.02) as reader,
    ):
        beats: set[datetime] = set()

        async def beats_twice() -> bool:
            beat = await reader.writer_heartbeat()
            beats.update([beat] if beat is not None else [])
            return len(beats) == 2

        await until(beats_twice)
        assert min(beats) > before
        assert await reader.last_store_activity() is None


BUSY_OWNER = """
import asyncio, sys
from taquba import Queue, QueueConfig, EnqueueRequest, SettlementEffects

async def main(url):
    config = QueueConfig(max_attempts=2, retry_backoff_base=0)
    async with Queue.open(url, default_config=config) as queue:
        await queue.enqueue("a", b"first")
        print("ready", flush=True)

        async def produce():
            while True:
                await queue.enqueue_batch(
                    [EnqueueRequest("a", b"x", delay=i % 3 * 0.05) for i in range(7)]
                )

        async def work():
            while True:
                for n, claim in enumerate(await queue.claim_batch("a", 10, wait=1)):
                    if n % 3:
                        await queue.ack(claim)
                    else:
                        await queue.nack(claim, "no")

        await asyncio.gather(*(produce() for _ in range(4)), *(work() for _ in range(4)))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("mode", MODES)
async def test_every_snapshot_beside_a_busy_owner_holds_whole_commits(
    tmp_path: Path, mode: Mode
) -> None:
    url = str(tmp_path / "store")
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUSY_OWNER, url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        assert await owner.stdout.readline() == b"ready\n"
        seen: set[tuple[int, ...]] = set()
        async with QueueReader.open(url, mode=mode, poll_interval=0.01) as reader:
            async with asyncio.timeout(60):
                while len(seen) < 20:
                    seen.add(await counters_equal_rows(reader))
    finally:
        owner.kill()
        await owner.wait()


async def counters_equal_rows(reader: QueueReader) -> tuple[int, ...]:
    """One scan is one snapshot: count every row in it and compare with the counters in it."""
    spaces = {
        keys.PENDING: "pending",
        keys.SCHEDULED: "scheduled",
        keys.CLAIMED: "claimed",
        keys.DEAD: "dead",
    }
    rows = dict.fromkeys(JobStatus, 0)
    counters = None
    async for batch in reader._engine.scan(b"", None):
        for key, value in batch:
            if key[:2] in spaces:
                rows[JobStatus(spaces[key[:2]])] += 1
            elif key == keys.stats("a"):
                counters = decode_counters("q", value)
    assert counters is not None
    counted = (counters.pending, counters.scheduled, counters.claimed, counters.dead)
    assert counted == (
        rows[JobStatus.PENDING],
        rows[JobStatus.SCHEDULED],
        rows[JobStatus.CLAIMED],
        rows[JobStatus.DEAD],
    )
    return (*counted, counters.done)


@pytest.mark.parametrize("mode", MODES)
async def test_a_job_that_left_with_its_payload_since_the_readers_look_is_gone(
    tmp_path: Path, mode: Mode
) -> None:
    url = tmp_path / "store"
    async with Queue.open(url, payload_offload_threshold=10) as owner:
        for job_id in ("1-acknowledged", "2-accident", "3-waiting"):
            await owner.enqueue("q", bytes(20), job_id=job_id)
        async with QueueReader.open(url, mode=mode, poll_interval=3600) as reader:
            claim = await owner.claim("q")
            assert claim is not None
            await owner.ack(claim)
            await remove_payload(owner, "2-accident")
            assert len(await payload_objects(owner)) == 1
            # The reader has looked before all this, and will hardly look again.
            assert await reader.get_job("1-acknowledged") is None
            jobs = (await reader.list_jobs("q", JobStatus.PENDING)).jobs
            assert [job.id for job in jobs] == ["2-accident", "3-waiting"]
            with pytest.raises(PayloadMissing):
                _ = jobs[0].payload
            assert jobs[1].payload == bytes(20)
