"""A write-ahead log with holes, or that was damaged, as an owner finds it."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from slatedb.uniffi import DbBuilder, Error

from taquba import Queue, StoreError, StoreFenced
from taquba._engine import wal_check
from taquba._engine.object_store import connect_engine
from taquba._engine.wal_check import Log
from taquba._objects.location import StoreLocation
from taquba.doctor import examine
from tests.conftest import LONG
from tests.servers.faulty_s3 import FaultyS3, StoredObject
from tests.store.oddly import CONFLICT, NO_KEY, Odd

URL = "s3://bucket/prefix"
JOBS = 12
CHILD = Path(__file__).with_name("crashing_child.py")


async def crash(url: str, jobs: int = JOBS) -> None:
    """An owner enqueues jobs and dies."""
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), url, str(jobs))
    assert await child.wait() == 0


def log_of(s3: FaultyS3) -> dict[str, StoredObject]:
    return {key: found for key, found in sorted(s3.objects.items()) if "/wal/" in key}


async def pending(url: str = URL) -> int:
    async with Queue.open(url) as queue:
        return (await queue.stats("q")).pending


# What the look decides.


def a_log(sizes: str, replayed: int = 0) -> Log:
    """One character for each number above `replayed`: "d"ata, "e"mpty, or "." for nothing."""
    found = {replayed + 1 + n: 9 * (c == "d") for n, c in enumerate(sizes) if c != "."}
    return Log(epoch=1, replayed=replayed, tables_seq=0, sizes=found)


@pytest.mark.parametrize(
    ("sizes", "lost", "holes"),
    [
        ("", [], []),
        ("edd", [], []),
        ("edd.e", [], [14]),
        ("edd..e", [], [14, 15]),
        ("edd.e.e", [], [14, 16]),
        (".e", [], [11]),
        ("ed.d", [13], []),
        (".ddd", [11], []),
        ("e.d.e", [12], [14]),
    ],
)
def test_a_hole_above_all_commits_may_be_mended_and_one_below_is_damage(
    sizes: str, lost: list[int], holes: list[int]
) -> None:
    log = a_log(sizes, replayed=10)
    assert log.lost() == lost
    assert log.holes() == holes


@pytest.mark.parametrize(
    ("sizes", "around"),
    [
        ("edd", [(None, 2)]),
        ("dde", []),
        ("eddedd", [(None, 2), (3, 5)]),
        ("deeded", [(1, 4), (4, 6)]),
        ("ddd", []),
    ],
)
def test_what_lies_beside_empty_objects_is_compared(
    sizes: str, around: list[tuple[int | None, int]]
) -> None:
    assert list(a_log(sizes).around_empty()) == around


# Holes of fencing writes.


async def test_a_fencing_write_that_is_refused_though_nobody_wrote_does_no_harm(
    s3: FaultyS3, odd: Odd, caplog: pytest.LogCaptureFixture
) -> None:
    await crash(URL)
    last = list(log_of(s3))[-1]
    odd.answer("PUT", "/wal/", CONFLICT)
    with caplog.at_level(logging.WARNING):
        async with Queue.open(URL) as queue:
            assert (await queue.stats("q")).pending == JOBS
            await queue.enqueue("q", b"")
    hole = wal_check.object_name(int(last[-24:-4]) + 1)
    assert f"had a hole at {hole}" in caplog.text
    assert await pending() == JOBS + 1


async def test_a_hole_that_a_killed_owner_left_is_mended(s3: FaultyS3, odd: Odd) -> None:
    await crash(URL)
    odd.answer("PUT", "/wal/", CONFLICT, times=3)
    with pytest.raises(Error):
        await DbBuilder("prefix", connect_engine(StoreLocation.parse(URL))).build()
    log = log_of(s3)
    assert int(list(log)[-1][-24:-4]) == len(log) + 3
    assert await pending() == JOBS


async def test_the_engine_still_does_not_repeat_a_create_that_was_refused_for_no_reason(
    s3: FaultyS3, odd: Odd
) -> None:
    """When this fails, the engine looks whether the object is there: mending is needed no more."""
    await crash(URL)
    odd.answer("PUT", "/wal/", CONFLICT)
    store = connect_engine(StoreLocation.parse(URL))
    for _ in range(2):
        with pytest.raises(Error.Data, match="wal truncated"):
            await DbBuilder("prefix", store).build()


@pytest.mark.parametrize("seed", range(60 if LONG else 2))
async def test_no_acknowledged_commit_of_a_living_owner_is_skipped_by_mending(
    s3: FaultyS3, odd: Odd, seed: int
) -> None:
    """The former owner works at full speed while others open the store over refused fences."""
    rng = random.Random(seed)
    acknowledged: list[str] = []

    def refuse(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        fence = method == "PUT" and "/wal/" in path and headers.get("Content-Length") == "0"
        return CONFLICT if fence and rng.random() < 0.6 else None

    async def work(queue: Queue) -> None:
        number = 0
        try:
            while True:
                number += 1
                job = await queue.enqueue("q", b"", job_id=f"{id(queue)}-{number}")
                acknowledged.append(job.id)
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.01)
        except (StoreFenced, StoreError):
            return

    odd.rules.append(refuse)
    for _ in range(4):
        try:
            owner = await Queue.open(URL)
        except StoreError:
            # As rarely as all the tries of an opening meet such an answer.
            continue
        working = asyncio.create_task(work(owner))
        await asyncio.sleep(rng.random() * 0.1)
        try:
            successor = await Queue.open(URL)
        except StoreError:
            successor = None
        await working if successor else working.cancel()
        if successor is not None:
            await successor.close()
        await asyncio.gather(owner.close(), working, return_exceptions=True)
    odd.rules.clear()
    async with Queue.open(URL) as queue:
        assert acknowledged
        for job_id in acknowledged:
            assert await queue.get_job(job_id) is not None


async def test_a_look_that_misses_an_object_once_mends_nothing(s3: FaultyS3, odd: Odd) -> None:
    await crash(URL)
    before = log_of(s3)
    odd.answer("GET", "/wal/", NO_KEY)
    odd.answer("HEAD", "/wal/", NO_KEY, times=2)
    assert await pending() == JOBS
    after = log_of(s3)
    assert all(after[key].data == found.data for key, found in before.items() if key in after)


# Damage.


async def test_a_deleted_object_below_commits_is_refused_by_name(s3: FaultyS3) -> None:
    await crash(URL)
    name = list(log_of(s3))[5]
    taken = s3.objects.pop(name)
    before = dict(s3.objects)
    with pytest.raises(StoreError, match=f"{name.removeprefix('prefix/')} is missing") as caught:
        await Queue.open(URL)
    assert caught.value.permanent
    assert "backup" in str(caught.value)
    # Nothing was fenced or written, so what is restored is all there.
    assert s3.objects == before
    s3.objects[name] = taken
    assert await pending() == JOBS


@pytest.mark.parametrize("number", [3, JOBS])
async def test_an_emptied_file_below_commits_is_refused_by_name(
    tmp_path: Path, number: int
) -> None:
    await crash(str(tmp_path))
    file = tmp_path / wal_check.object_name(number)
    content = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(StoreError, match=rf"{wal_check.object_name(number)} is empty") as caught:
        await Queue.open(tmp_path)
    assert caught.value.permanent
    file.write_bytes(content)
    assert await pending(str(tmp_path)) == JOBS


async def test_an_emptied_file_beside_a_fence_is_found(tmp_path: Path) -> None:
    await crash(str(tmp_path))
    await crash(str(tmp_path))
    fences = [
        n for n in range(2, 2 * JOBS) if not (tmp_path / wal_check.object_name(n)).stat().st_size
    ]
    (tmp_path / wal_check.object_name(fences[0] - 1)).write_bytes(b"")
    names = (
        rf"{wal_check.object_name(fences[0] - 1)} to {wal_check.object_name(fences[0])} are empty"
    )
    with pytest.raises(StoreError, match=names):
        await Queue.open(tmp_path)


@pytest.mark.parametrize("count", [1, 3])
async def test_an_emptied_file_at_the_end_is_refused_by_name(tmp_path: Path, count: int) -> None:
    await crash(str(tmp_path), 2)
    await crash(str(tmp_path))
    files = sorted((tmp_path / "wal").iterdir())[-count:]
    contents = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    # Also the second time: a refused opening leaves no fence.
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"{files[0].name}.* empty, and held") as caught:
            await Queue.open(tmp_path)
        assert caught.value.permanent
    diagnosis = await examine(str(tmp_path))
    assert any(files[0].name in failure.detail for failure in diagnosis.failures)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert await pending(str(tmp_path)) == JOBS + 2


async def test_a_refused_fence_below_the_first_commit_is_not_taken_for_an_emptied_file(
    s3: FaultyS3, odd: Odd
) -> None:
    for refused in (CONFLICT, NO_KEY):
        odd.answer("PUT", "/wal/", refused)
        await crash(URL, 1)
        await crash(URL, 0)
    assert await pending() == 2


async def test_fences_of_owners_that_were_killed_are_not_taken_for_damage(tmp_path: Path) -> None:
    for jobs in (3, 0, 0, 2, 1):
        await crash(str(tmp_path), jobs)
    empty = [file for file in (tmp_path / "wal").iterdir() if not file.stat().st_size]
    assert len(empty) == 5
    assert await pending(str(tmp_path)) == 6


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_store_whose_last_manifests_were_deleted_opens_with_all_that_the_log_holds(
    s3: FaultyS3, count: int
) -> None:
    await crash(URL)
    for key in sorted(key for key in s3.objects if "/manifest/" in key)[-count:]:
        del s3.objects[key]
    assert await pending() == JOBS
