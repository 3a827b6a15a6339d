from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from taquba import InvalidArgument, OwnerPresence, OwnerSigns, Queue, QueueReader
from taquba._engine.engine import Engine
from taquba._engine.read_only import Mode
from taquba._model import keys
from taquba._objects import owner_lock
from taquba._objects.location import StoreLocation
from taquba._objects.owner_lock import OwnerLock
from tests.queue.support import OpenQueue, fresh_url, rows
from tests.servers.faulty_s3 import FaultyS3

IDLE_OWNER = """
import asyncio, sys
from taquba import Queue

async def main(url):
    async with Queue.open(url):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(sys.argv[1]))
"""


async def signs(url: str | Path, patience: float = 0.3) -> OwnerSigns:
    async with QueueReader.open(url, mode="follow_latest", poll_interval=0.05) as reader:
        return await reader.detect_owner(patience)


async def start_owner(url: Path) -> asyncio.subprocess.Process:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        IDLE_OWNER,
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"ready\n"
    return owner


async def test_an_idle_owner_of_a_folder_is_seen_until_it_is_killed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    owner = await start_owner(store)
    try:
        seen = await signs(store)
        assert seen.presence is OwnerPresence.PRESENT
        assert seen.reason.startswith("a process on this machine has the store open: process ")
        assert str(owner.pid) in seen.reason
    finally:
        owner.kill()
        await owner.wait()
    seen = await signs(store)
    assert seen.presence is OwnerPresence.ABSENT
    assert "died" in seen.reason


async def test_a_closed_store_has_no_owner(tmp_path: Path) -> None:
    for url in (tmp_path / "store", fresh_url()):
        async with Queue.open(url) as queue:
            await queue.enqueue("q", b"")
        seen = await signs(url)
        assert seen.presence is OwnerPresence.ABSENT
        assert "closed the store at 20" in seen.reason


async def test_a_closed_store_that_is_opened_again_has_one(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        pass
    async with Queue.open(tmp_path) as queue:
        assert (await signs(tmp_path)).presence is OwnerPresence.PRESENT
        assert keys.CLOSED not in await rows(queue)


async def test_a_reader_that_has_not_looked_again_sees_the_owner_that_came(tmp_path: Path) -> None:
    url = tmp_path / "store"
    async with Queue.open(url):
        pass
    async with QueueReader.open(url, poll_interval=3600) as reader, Queue.open(url) as queue:
        await queue.enqueue("q", b"")
        assert (await reader.detect_owner(0)).presence is OwnerPresence.PRESENT


@pytest.mark.parametrize("mode", ["checkpoint", "follow_latest"])
async def test_where_there_is_no_lock_an_old_look_does_not_make_an_owner_absent(
    mode: Mode,
) -> None:
    url = fresh_url()
    async with Queue.open(url):
        pass
    async with QueueReader.open(url, mode=mode, poll_interval=3600) as reader:
        assert (await reader.detect_owner(0)).presence is OwnerPresence.ABSENT
        async with Queue.open(url) as queue:
            await queue.enqueue("q", b"")
            assert (await reader.detect_owner(0)).presence is not OwnerPresence.ABSENT
        assert (await reader.detect_owner(0)).presence is OwnerPresence.ABSENT


async def test_an_owner_that_is_still_opening_the_store_is_seen(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        pass
    # As far as an owner gets before its first commit; the store still says that it was closed.
    lock = await asyncio.to_thread(OwnerLock, tmp_path, 0)
    engine = await Engine.open(StoreLocation.parse(tmp_path), lock, fsync=False)
    try:
        assert await engine.get(keys.CLOSED) is not None
        assert (await signs(tmp_path)).presence is OwnerPresence.PRESENT
    finally:
        await engine.close()
    assert (await signs(tmp_path)).presence is OwnerPresence.ABSENT


async def test_an_owner_that_is_still_opening_a_store_in_a_bucket_is_not_absent(
    s3: FaultyS3,
) -> None:
    url = "s3://bucket/prefix"
    for _ in range(2):
        async with Queue.open(url):
            pass
        assert (await signs(url)).presence is OwnerPresence.ABSENT
    engine = await Engine.open(StoreLocation.parse(url), fsync=False)
    try:
        assert await engine.get(keys.CLOSED) is not None
        seen = await signs(url)
        assert seen.presence is OwnerPresence.UNKNOWN
        assert "began to open it" in seen.reason
        looking = asyncio.create_task(signs(url, 20))
        await asyncio.sleep(0.3)
        await engine.write([(keys.CLOSED, None)])
        await engine.flush()
        assert (await looking).presence is OwnerPresence.PRESENT
    finally:
        await engine.close()


async def test_an_opening_that_failed_is_not_under_way(tmp_path: Path) -> None:
    lock = await asyncio.to_thread(OwnerLock, tmp_path, 0)
    assert await asyncio.to_thread(owner_lock.is_opening, tmp_path) is True
    await asyncio.to_thread(lock.release)
    assert await asyncio.to_thread(owner_lock.is_opening, tmp_path) is False


async def test_a_fenced_owner_is_none(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        async with Queue.open(tmp_path, take_over=True):
            pass
        # The first is still there, and its lock is held; but it can write nothing any more.
        assert await asyncio.to_thread(owner_lock.is_held, tmp_path)
        assert (await signs(tmp_path)).presence is OwnerPresence.ABSENT


async def test_the_owner_that_fenced_another_is_seen_after_the_other_ended(tmp_path: Path) -> None:
    former = await Queue.open(tmp_path)
    async with Queue.open(tmp_path, take_over=True):
        await former.close()
        assert (await signs(tmp_path)).presence is OwnerPresence.PRESENT


async def test_without_a_lock_file_only_what_an_owner_writes_is_seen(tmp_path: Path) -> None:
    """What is left of an owner elsewhere: a copy of its folder, made while it had it open."""
    async with Queue.open(tmp_path / "store", heartbeat_interval=3600) as queue:
        await queue.enqueue("q", b"")
        await asyncio.to_thread(
            shutil.copytree,
            tmp_path / "store",
            tmp_path / "copy",
            ignore=shutil.ignore_patterns("owner.lock"),
        )
    seen = await signs(tmp_path / "copy")
    assert seen.presence is OwnerPresence.UNKNOWN
    assert "not closed" in seen.reason
    assert "last heartbeat 20" in seen.reason
    assert "last change 20" in seen.reason


@pytest.mark.parametrize("sign", ["heartbeat", "work"])
async def test_an_owner_without_a_lock_is_seen_when_the_store_moves(
    open_queue: OpenQueue, sign: str
) -> None:
    url = fresh_url()
    queue = await open_queue(url)

    async def be_busy() -> None:
        number = 0
        while True:
            number += 1
            if sign == "work":
                await queue.enqueue("q", b"")
            else:
                await queue._owner.engine.write([(keys.HEARTBEAT, str(number).encode())])
                await queue._owner.engine.flush()
            await asyncio.sleep(0.05)

    busy = asyncio.create_task(be_busy())
    try:
        seen = await signs(url, patience=10)
    finally:
        busy.cancel()
    assert seen == OwnerSigns(OwnerPresence.PRESENT, "the store is being written")


async def test_an_idle_owner_without_a_lock_cannot_be_told_from_a_dead_one(
    open_queue: OpenQueue,
) -> None:
    url = fresh_url()
    await open_queue(url)
    seen = await signs(url)
    assert seen.presence is OwnerPresence.UNKNOWN
    assert seen.reason.endswith("no heartbeat, no job yet")


async def test_a_bad_patience_is_refused(tmp_path: Path) -> None:
    async with Queue.open(tmp_path), QueueReader.open(tmp_path) as reader:
        with pytest.raises(InvalidArgument, match="patience"):
            await reader.detect_owner(-1)


# -- the lock file ------------------------------------------------------------------------------


def test_looking_at_a_lock_does_not_keep_an_owner_from_it(tmp_path: Path) -> None:
    assert owner_lock.is_held(tmp_path) is None
    first, second = OwnerLock(tmp_path, 0), OwnerLock(tmp_path, 0)
    first.release()
    first.release()
    assert owner_lock.is_held(tmp_path) is True
    second.release()
    assert owner_lock.is_held(tmp_path) is False


def test_an_owner_that_cannot_make_a_lock_file_goes_without(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path / "missing", 0)
    assert owner_lock.is_held(tmp_path / "missing") is None
    lock.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_lock_file_that_may_not_be_read_says_nothing(tmp_path: Path) -> None:
    lock = OwnerLock(tmp_path, 0)
    (tmp_path / "owner.lock").chmod(0)
    assert owner_lock.is_held(tmp_path) is None
    lock.release()
