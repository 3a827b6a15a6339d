"""Opening a store that a living owner has is refused, before anything is written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import Queue, QueueReader, Service, StoreFenced, StoreOwned
from taquba._objects.owner_lock import OwnerLock
from taquba.testing import MockClock
from tests.queue.support import fresh_url
from tests.servers.faulty_s3 import FaultyS3

OWNER = """
import asyncio, sys
from taquba import Queue

async def main(url):
    async with Queue.open(url) as queue:
        await queue.enqueue("q", b"of the child")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(sys.argv[1]))
"""
SERVICE = """
import asyncio, sys
from taquba import Service

async def handle(job, lease):
    pass

async def main(url):
    async with Service(url, {"q": handle}, takeover_after=1) as service:
        while service.role != "owner":
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(sys.argv[1]))
"""
OPENER = """
import asyncio, sys
from taquba import Queue, StoreOwned

async def main(url):
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        async with Queue.open(url):
            print("opened", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
    except StoreOwned:
        print("refused", flush=True)

asyncio.run(main(sys.argv[1]))
"""
PATIENCE = 60
"""Seconds that nothing here takes."""


class Child:
    """A process that is told when to go on by a line, and says what it did by another."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def said(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)).decode().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def end(self) -> None:
        self.go_on()
        assert await asyncio.wait_for(self.process.wait(), PATIENCE) == 0

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def child(code: str, url: str | Path) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    started = Child(process)
    try:
        assert await started.said() == "ready"
        yield started
    finally:
        await started.kill()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def refused(url: str | Path) -> StoreOwned:
    with pytest.raises(StoreOwned) as caught:
        await Queue.open(url)
    return caught.value


# -- a folder -----------------------------------------------------------------------------------


async def test_an_owner_in_another_process_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    before = datetime.now(UTC)
    async with child(OWNER, store) as owner:
        held = await asyncio.to_thread(files_in, store)
        error = await refused(store)
        assert await asyncio.to_thread(files_in, store) == held
        assert (error.host, error.pid) == (socket.gethostname(), owner.pid)
        assert error.since is not None
        assert before - timedelta(milliseconds=1) <= error.since <= datetime.now(UTC)
        assert error.url == str(store)
        assert not error.permanent
        text = str(error)
        for part in (str(owner.pid), socket.gethostname(), f"{error.since:%Y-%m-%d %H:%M:%S}"):
            assert part in text
        for remedy in ("Service", "QueueReader", "Producer", "take_over=True"):
            assert remedy in text
        assert str(error.again()) == text
        await owner.end()
    async with Queue.open(store) as queue:
        assert (await queue.stats("q")).pending == 1


async def test_an_owner_that_is_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with child(OWNER, store) as owner:
        await refused(store)
        await owner.kill()
        assert (store / "owner.lock").read_bytes()
        async with Queue.open(store) as queue:
            assert (await queue.stats("q")).pending == 1
            assert (await refused(store)).pid == os.getpid()


async def test_take_over_fences_an_owner_that_lives(tmp_path: Path) -> None:
    clock = MockClock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    async with Queue.open(tmp_path, clock=clock) as former:
        error = await refused(tmp_path)
        assert error.since == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        await clock.advance(60)
        async with Queue.open(tmp_path, clock=clock, take_over=True):
            with pytest.raises(StoreFenced):
                await former.enqueue("q", b"x")
            # The one that has it now, though the other one was the first.
            error = await refused(tmp_path)
            assert error.since == datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)


async def test_the_former_owner_is_named_until_it_is_fenced(tmp_path: Path) -> None:
    async with Queue.open(tmp_path, clock=MockClock(datetime(2026, 1, 2, tzinfo=UTC))):
        lock = await asyncio.to_thread(OwnerLock, tmp_path, 0)
        assert not await asyncio.to_thread(lock.is_alone)
        assert (await refused(tmp_path)).since == datetime(2026, 1, 2, tzinfo=UTC)
        await asyncio.to_thread(lock.opened)
        assert (await refused(tmp_path)).since == datetime(1970, 1, 1, tzinfo=UTC)
        lock.release()


async def test_a_fenced_owner_that_does_not_know_it_yet_does_not_count(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        async with Queue.open(tmp_path, take_over=True):
            pass
        async with Queue.open(tmp_path):
            await refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b'{"host": "web-1", "pi', b"\xff\x00", b"[1]", b'{"host": 1, "pid": "2", "since": 1e9}'],
    ids=["empty", "cut off", "bytes", "a list", "other types"],
)
async def test_a_text_that_cannot_be_read_names_nobody(tmp_path: Path, text: bytes) -> None:
    async with Queue.open(tmp_path):
        (tmp_path / "owner.lock").write_bytes(text)
        error = await refused(tmp_path)
        assert (error.host, error.pid, error.since) == (None, None, None)
        assert "unknown process" in str(error)
    async with Queue.open(tmp_path):
        assert (await refused(tmp_path)).pid == os.getpid()


async def test_what_cannot_be_a_host_or_a_time_is_unknown(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        text = b'{"host": "\\u001b[2J", "pid": 7, "since": %d}' % 10**30
        (tmp_path / "owner.lock").write_bytes(text)
        error = await refused(tmp_path)
        assert (error.host, error.pid, error.since) == (None, 7, None)


async def test_a_text_without_its_lock_refuses_nobody(tmp_path: Path) -> None:
    tmp_path.joinpath("owner.lock").write_bytes(b'{"host": "web-1", "pid": 1, "since": 0}')
    async with Queue.open(tmp_path):
        assert (await refused(tmp_path)).pid == os.getpid()


async def test_of_several_that_open_a_store_at_once_one_gets_it(tmp_path: Path) -> None:
    for number in range(3):
        # A new store, and one that was closed.
        store = tmp_path / f"store{number // 2}"
        async with contextlib.AsyncExitStack() as stack:
            openers = [await stack.enter_async_context(child(OPENER, store)) for _ in range(4)]
            for opener in openers:
                opener.go_on()
            said = [await opener.said() for opener in openers]
            assert sorted(said) == ["opened", "refused", "refused", "refused"]
            for opener in openers:
                await opener.end()


async def test_of_several_openings_in_one_loop_one_gets_the_store(tmp_path: Path) -> None:
    for url in (tmp_path, fresh_url()):
        opened = await asyncio.gather(*(Queue.open(url) for _ in range(4)), return_exceptions=True)
        (queue,) = [one for one in opened if isinstance(one, Queue)]
        assert sum(isinstance(one, StoreOwned) for one in opened) == 3
        await queue.enqueue("q", b"x")
        await queue.close()


async def test_looking_for_an_owner_keeps_nobody_from_becoming_one(tmp_path: Path) -> None:
    async with Queue.open(tmp_path):
        pass
    async with QueueReader.open(tmp_path, mode="follow_latest") as reader:

        async def look() -> None:
            while True:
                await reader.detect_owner(0)

        looking = [asyncio.create_task(look()) for _ in range(4)]
        for _ in range(10):
            async with Queue.open(tmp_path):
                pass
        for task in looking:
            task.cancel()
        await asyncio.wait(looking)


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_an_opening_that_is_cancelled_leaves_the_store_free(
    tmp_path: Path, turns: int
) -> None:
    for url in (tmp_path, fresh_url()):
        opening = asyncio.ensure_future(open_and_close(url))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.wait([opening])
        # What is on its way to a thread comes back.
        await asyncio.sleep(0.05)
        async with Queue.open(url):
            pass


async def open_and_close(url: str | Path) -> None:
    async with Queue.open(url):
        pass


async def test_readers_and_producers_of_an_owned_store_are_welcome(tmp_path: Path) -> None:
    async with Queue.open(tmp_path) as queue:
        await queue.enqueue("q", b"x")
        async with QueueReader.open(tmp_path) as reader:
            assert str(os.getpid()) in (await reader.detect_owner()).reason
            assert (await reader.stats("q")).pending == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
async def test_a_lock_file_of_another_user_is_enough(tmp_path: Path) -> None:
    (tmp_path / "owner.lock").touch()
    (tmp_path / "owner.lock").chmod(0o444)
    async with Queue.open(tmp_path):
        error = await refused(tmp_path)
        assert error.pid is None


# -- memory -------------------------------------------------------------------------------------


async def test_a_store_in_memory_has_one_owner() -> None:
    url = fresh_url()
    async with Queue.open(url) as former:
        error = await refused(url)
        assert (error.host, error.pid) == (socket.gethostname(), os.getpid())
        async with Queue.open(url, take_over=True):
            with pytest.raises(StoreFenced):
                await former.enqueue("q", b"x")
            await refused(url)
        async with Queue.open(url):
            await refused(url)
    async with Queue.open(url), Queue.open("memory://"), Queue.open("memory://"):
        pass


def test_an_owner_in_memory_ends_with_its_event_loop() -> None:
    url = fresh_url()

    async def leave_open() -> None:
        await Queue.open(url)

    asyncio.run(leave_open())
    asyncio.run(open_and_close(url))


# -- a bucket -----------------------------------------------------------------------------------


async def test_an_elected_owner_of_a_bucket_is_left_alone(s3: FaultyS3) -> None:
    url = "s3://bucket/prefix"
    async with child(SERVICE, url) as owner:
        error = await refused(url)
        assert (error.host, error.pid) == (socket.gethostname(), owner.pid)
        assert error.since is not None
        await owner.end()
    async with Queue.open(url):
        pass


async def test_an_elected_owner_of_a_bucket_that_was_killed_is_waited_out(s3: FaultyS3) -> None:
    url = "s3://bucket/prefix"
    async with child(SERVICE, url) as owner:
        await owner.kill()
    async with Queue.open(url):
        pass


async def test_an_owner_of_a_bucket_without_an_election_is_fenced(s3: FaultyS3) -> None:
    url = "s3://bucket/prefix"
    async with Queue.open(url) as former, Queue.open(url):
        with pytest.raises(StoreFenced):
            await former.enqueue("q", b"x")


async def test_a_service_leaves_the_owner_of_its_folder_alone(tmp_path: Path) -> None:
    async def handle(job: object, lease: object) -> None:
        pass

    async with Service(tmp_path, {"q": handle}) as service:
        async with asyncio.timeout(PATIENCE):
            while service.role != "owner":  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0.01)
        await refused(tmp_path)
    async with Queue.open(tmp_path):
        pass
