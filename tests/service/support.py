"""Where services of the tests have their stores, and processes that take part in one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from taquba import Queue
from tests.servers.stores import S3Server

CHILD = Path(__file__).with_name("service_child.py")
ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that nothing here takes; a test that waits that long has failed."""


def store_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place for a store; in a bucket, which is found through the environment."""
    if kind == "folder":
        return str(tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3_server")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    return f"{server.root}{tmp_path}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - conditions of any kind
            await asyncio.sleep(0.01)


class Child:
    """A process that takes part in a service, and reports what it does by lines of a log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.killed_at: float | None = None

    def reports(self, kind: str) -> list[str]:
        """What follows `kind` in the whole lines of the log."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        words = (line.partition(" ") for line in whole.splitlines())
        return [rest for first, _, rest in words if first == kind]

    @property
    def is_owner(self) -> bool:
        whole, _, _ = self.log.read_text().rpartition("\n")
        roles = [line.split()[0] for line in whole.splitlines()]
        roles = [role for role in roles if role in ("owner", "worker", "producer")]
        return roles[-1:] == ["owner"] and self.process.returncode is None

    async def kill(self) -> None:
        self.process.kill()
        self.killed_at = time.monotonic()
        await self.process.wait()

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


C = TypeVar("C", bound=Child)


class Site(Generic[C]):
    """A store in a folder, and the processes that work on it.

    Args:
        folder: Where the store and the logs are.
        program: The program of the processes, called with the store's folder and the log.
        kind: What stands for one.
    """

    def __init__(self, folder: Path, program: Path, kind: type[C]) -> None:
        self.url = folder / "s"
        self._folder = folder
        self._program = program
        self._kind = kind
        self._all: list[C] = []

    async def begin(self, *arguments: object) -> C:
        """Start a process, with further arguments."""
        log = self._folder / f"log{len(self._all)}"
        log.touch()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(self._program), str(self.url), str(log), *map(str, arguments)),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        child = self._kind(process, log)
        self._all.append(child)
        return child

    async def close(self) -> None:
        for child in self._all:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGCONT)
                child.process.kill()
            await child.process.wait()


class Children:
    """Processes that take part in one service."""

    def __init__(self, url: str, folder: Path, takeover: float) -> None:
        self.url = url
        self._folder = folder
        self._takeover = takeover
        self._all: list[Child] = []

    @property
    def alive(self) -> list[Child]:
        return [child for child in self._all if child.process.returncode is None]

    async def start(self, role: str = "auto") -> Child:
        log = self._folder / f"log{len(self._all)}"
        log.touch()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), self.url, str(log), str(self._takeover), role),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        child = Child(process, log)
        self._all.append(child)
        return child

    async def owner(self) -> Child:
        """The owner, once there is one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for child in self.alive:
                    if child.is_owner:
                        return child
                await self.pause()

    def sent(self) -> set[str]:
        return {job_id for child in self._all for job_id in child.reports("sent")}

    def handled(self) -> Counter[str]:
        return Counter(job_id for child in self._all for job_id in child.reports("handled"))

    async def until_sent(self, more: int) -> None:
        """Wait until so many more jobs were sent and handled."""
        target = len(self.sent()) + more
        async with asyncio.timeout(PATIENCE):
            while len(self.sent()) < target or len(self.handled()) < target:
                await self.pause()

    async def finish(self) -> None:
        """Send no more, let everything be handled, and end, owners last."""
        for child in self.alive:
            child.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(PATIENCE):
            while not all(child.reports("enough") for child in self.alive):
                await self.pause()
            while not self.sent() <= self.handled().keys():
                await self.pause()
        for child in sorted(self.alive, key=lambda child: child.is_owner):
            assert await child.stop() == 0

    async def settlements(self) -> Counter[str]:
        """How often each job was settled, after the end."""
        found: Counter[str] = Counter()
        async with Queue.open(self.url, inbox=True) as queue:
            assert (await queue.stats("q")).pending == 0
            cursor: str | None = None
            while True:
                page = await queue.kv_scan("settled/", cursor, 1000)
                found.update(entry.key.split("/")[1] for entry in page.entries)
                cursor = page.next_cursor
                if cursor is None:
                    return found

    async def pause(self) -> None:
        await asyncio.sleep(0.02)
        for child in self._all:
            code = child.process.returncode
            assert code is None or child.killed_at or code == 0, "a child failed"

    async def close(self) -> None:
        for child in self._all:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
            await child.process.wait()


@contextlib.asynccontextmanager
async def children(url: str, folder: Path, takeover: float) -> AsyncIterator[Children]:
    found = Children(url, folder, takeover)
    try:
        yield found
    finally:
        await found.close()
