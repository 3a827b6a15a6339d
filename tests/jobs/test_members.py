"""Typed jobs in several processes, which are really killed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from taquba import Service
from taquba_jobs import JobRunner, JobState, SubmitOptions
from tests.service.support import ROOT

SECONDS = 60
COUNT = 60


class Processes:
    """Processes of the program."""

    def __init__(self, store: Path, log: Path) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STORE": str(store),
            "LOG": str(log),
        }
        self._all: list[asyncio.subprocess.Process] = []
        self.killed: set[int] = set()

    async def start(self) -> None:
        command = (sys.executable, "-m", "taquba", "run", "tests.jobs.members_program:service")
        self._all.append(
            await asyncio.create_subprocess_exec(
                *command, env=self._environment, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
            )
        )

    def kill(self, pid: int) -> None:
        (process,) = [process for process in self._all if process.pid == pid]
        process.kill()
        self.killed.add(pid)

    async def end(self) -> None:
        for process in self._all:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Service, JobRunner[Any], ModuleType, Processes]]:
    """A handle on the store, and three processes that work on its jobs."""
    monkeypatch.setenv("STORE", str(folder / "store"))
    monkeypatch.setenv("LOG", str(folder / "log"))
    sys.modules.pop("tests.jobs.members_program", None)
    functions = importlib.import_module("tests.jobs.members_program")
    processes = Processes(folder / "store", folder / "log")
    service = Service(folder / "store", role="producer")
    runner: JobRunner[Any] = JobRunner(
        service, jobs=[functions.square, functions.sum_of_squares], state="here"
    )
    try:
        for _ in range(3):
            await processes.start()
        async with service:
            yield service, runner, functions, processes
    finally:
        await processes.end()


async def pids(service: Service, role: str, count: int = 1) -> list[int]:
    """The processes of a role, once there are so many."""
    while True:
        found = [member.pid for member in await service.members() if member.role == role]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.01)


def noted(folder: Path, kind: str) -> Counter[int]:
    """How often each number was noted."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return Counter(int(number) for what, number, _ in lines if what == kind)


async def until_ended(folder: Path, count: int) -> None:
    while not (folder / "log").exists() or len(noted(folder, "ended")) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("who", ["owner", "worker", "both"])
async def test_each_job_has_one_outcome_whoever_dies(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    async with (
        asyncio.timeout(SECONDS),
        program(short_path, monkeypatch) as (service, runner, functions, processes),
    ):
        await pids(service, "worker", 2)
        first = [await runner.submit(functions.square, number) for number in range(COUNT)]
        await until_ended(short_path, 10)
        if who in ("owner", "both"):
            processes.kill((await pids(service, "owner"))[0])
        if who in ("worker", "both"):
            processes.kill((await pids(service, "worker"))[0])
        await processes.start()
        # The same again, while there may be no owner.
        again = [await runner.submit(functions.square, number) for number in range(COUNT)]
        assert [handle.id for handle in again] == [handle.id for handle in first]
        results = await asyncio.gather(*(handle.join(SECONDS) for handle in again))
        assert results == [number * number for number in range(COUNT)]
        assert [await handle.status() for handle in first] == [JobState.SUCCEEDED] * COUNT
        stats = await service.stats("jobs")
        assert (stats.pending, stats.claimed, stats.dead) == (0, 0, 0)
    lines = [line.split() for line in (short_path / "log").read_text().splitlines()]
    ran = {(int(number), int(pid)) for what, number, pid in lines if what == "began"}
    for number in range(COUNT):
        # Only what ran in a process that died runs again, elsewhere.
        alive = [pid for one, pid in ran if one == number and pid not in processes.killed]
        assert len(alive) <= 1 + len(processes.killed)
        ends = [pid for what, n, pid in lines if what == "ended" and int(n) == number]
        lived = [pid for pid in ends if int(pid) not in processes.killed]
        assert len(lived) <= 1
    assert noted(short_path, "ended").keys() == set(range(COUNT))


async def test_a_job_submits_others_and_reports_from_wherever_it_runs(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        asyncio.timeout(SECONDS),
        program(short_path, monkeypatch) as (_, runner, functions, _processes),
    ):
        options = SubmitOptions(headers={"tenant": "t1"})
        handle = await runner.submit_with(options, functions.sum_of_squares, 20)
        assert await handle == sum(number * number for number in range(20))
        assert await runner.handle(functions.sum_of_squares, handle.id).fetch_result() == 2470
    assert set(noted(short_path, "ended").values()) == {1}
