"""No reference dangles and no object stays behind, wherever a process was killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import Queue, StoreFenced
from taquba.testing import MockClock
from tests.crash.held_engine import hold_engine
from tests.payloads.kill_child import PAYLOAD
from tests.payloads.support import payload_objects, referred
from tests.queue.support import OpenQueue, fresh_url, must_claim

LIMIT = 100
BIG = b"b" * (LIMIT + 1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores that were left by a process killed one step later each; the last one lived."""
    root = tmp_path_factory.mktemp("killed")
    # Forking children must happen where no storage engine runs yet.
    command = [sys.executable, "-m", "tests.payloads.kill_child", str(root)]
    subprocess.run(command, check=True, timeout=240, cwd=ROOT)
    return sorted(root.iterdir(), key=lambda folder: int(folder.name))


async def test_a_kill_at_any_step_leaves_no_dangling_reference_and_no_orphan_for_long(
    killed: list[Path],
) -> None:
    assert len(killed) > 30
    orphans = 0
    for folder in killed:
        clock = MockClock(datetime.now(UTC))
        async with Queue.open(
            folder / "store", clock=clock, payload_offload_threshold=LIMIT, fsync=False
        ) as queue:
            jobs = [
                job
                for name in ("q", "next")
                for status in ("pending", "scheduled", "dead")
                for job in (await queue.list_jobs(name, status)).jobs
            ]
            assert all(job.payload == PAYLOAD for job in jobs), folder
            needed = {job.payload_ref for job in jobs}
            found = await payload_objects(queue)
            assert needed <= found, folder
            orphans += len(found - needed)
            await clock.advance(timedelta(hours=2))
            await queue.sweep_now()
            assert await payload_objects(queue) == await referred(queue) | await referred(
                queue, "next"
            ), folder
    assert orphans > 0, "no kill left an orphan: the test lost its meaning"


async def test_a_clean_end_leaves_nothing_to_sweep(killed: list[Path]) -> None:
    clock = MockClock(datetime.now(UTC))
    async with Queue.open(killed[-1] / "store", clock=clock, fsync=False) as queue:
        assert await payload_objects(queue) == await referred(queue)


# -- the sweep ----------------------------------------------------------------------------------


async def orphan(queue: Queue) -> str:
    """An object as a crash leaves it between its upload and its commit."""
    ref = await queue._owner.payloads.upload(queue.next_job_id(), BIG)
    queue._owner.payloads.release(ref)
    return ref


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Queue:
    return await open_queue(fresh_url(), payload_offload_threshold=LIMIT)


async def test_an_orphan_goes_an_hour_after_its_upload(queue: Queue, mock_clock: MockClock) -> None:
    ref = await orphan(queue)
    await mock_clock.advance(timedelta(minutes=59))
    await queue.sweep_now()
    assert await payload_objects(queue) == {ref}
    await mock_clock.advance(timedelta(minutes=2))
    await queue.sweep_now()
    assert await payload_objects(queue) == set()


async def test_orphans_go_by_themselves(queue: Queue, mock_clock: MockClock) -> None:
    await orphan(queue)
    await mock_clock.advance(timedelta(hours=2))
    assert await payload_objects(queue) == set()


async def test_the_sweep_leaves_what_is_needed_in_any_state(
    queue: Queue, mock_clock: MockClock
) -> None:
    await queue.enqueue("q", BIG)
    await must_claim(queue)
    await queue.enqueue("q", BIG)
    await queue.dead_letter(await must_claim(queue), "broken")
    await queue.enqueue("q", BIG, delay=timedelta(days=1))
    await queue.enqueue("q", BIG)
    await mock_clock.advance(timedelta(hours=3))
    await queue.sweep_now()
    assert len(await payload_objects(queue)) == 4
    assert await payload_objects(queue) == await referred(queue)


async def test_the_sweep_looks_many_jobs_up_at_once(queue: Queue, mock_clock: MockClock) -> None:
    """One after the other, a thousand round trips of a bucket would take most of a minute."""
    for number in range(20):
        await queue.enqueue("q", BIG, job_id=f"job-{number}")
    await mock_clock.advance(timedelta(hours=2))
    held = hold_engine(queue, timeout=20)
    held.hold("get")
    before = held.calls["get"]
    sweeping = asyncio.create_task(queue.sweep_now())
    await held.reached("get", before + 20)
    held.release()
    await sweeping
    assert len(await payload_objects(queue)) == 20


async def test_the_sweep_leaves_an_upload_whose_commit_is_under_way(
    queue: Queue, mock_clock: MockClock
) -> None:
    ref = await queue._owner.payloads.upload(queue.next_job_id(), BIG)
    await mock_clock.advance(timedelta(hours=3))
    await queue.sweep_now()
    assert await payload_objects(queue) == {ref}


async def test_the_sweep_leaves_objects_of_other_names(queue: Queue, mock_clock: MockClock) -> None:
    payloads = queue._owner.payloads
    names = {"README", "a.b", "x.01ARZ3NDEKTSV4RRFFQ69G5FA!"}
    for name in names:
        await payloads._objects.put(f"{payloads._prefix}/{name}", b"")
    await mock_clock.advance(timedelta(hours=3))
    await queue.sweep_now()
    assert await payload_objects(queue) == names


async def test_a_fenced_owner_sweeps_nothing(open_queue: OpenQueue, mock_clock: MockClock) -> None:
    url = fresh_url()
    old = await open_queue(url, payload_offload_threshold=LIMIT)
    new = await open_queue(url, payload_offload_threshold=LIMIT, take_over=True)
    await new.enqueue("q", BIG)
    mock_clock_later = mock_clock.advance(timedelta(hours=3))
    await mock_clock_later
    with pytest.raises(StoreFenced):
        await old.sweep_now()
    assert (await must_claim(new)).payload == BIG


def leave_unfinished(folder: Path, hours: float) -> Path:
    """What an object store client leaves that is killed while it writes to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"job.01ARZ3NDEKTSV4RRFFQ69G5FAV#{hours:g}"
    file.write_bytes(BIG)
    written_at = time.time() - hours * 3600
    os.utime(file, (written_at, written_at))
    return file


async def test_a_file_that_was_being_written_at_a_kill_goes_after_an_hour(
    open_queue: OpenQueue, tmp_path: Path
) -> None:
    queue = await open_queue(tmp_path / "store", payload_offload_threshold=LIMIT)
    await queue.enqueue("q", BIG)
    jobs = tmp_path / "store-payloads" / queue._owner.payloads._prefix
    old = [leave_unfinished(folder, 2) for folder in (jobs, jobs.parent / "objects" / "a")]
    young = leave_unfinished(jobs, 0.5)
    other_store = leave_unfinished(tmp_path / "store-payloads" / "another" / "jobs", 2)
    await queue.sweep_now()
    assert not any(file.exists() for file in old)
    assert young.exists()
    assert other_store.exists()
    assert (await must_claim(queue)).payload == BIG
