"""Processes of a batch that are killed: the one that runs it, one that helps, the store's owner.

Each item has one row, and of its paid calls only those that were under way in the process that was
killed are made again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bulk.member_child import PHASES, WORKERS
from tests.bulk.support import REAL_SECONDS, rows_of, until
from tests.conftest import LONG

CHILD = Path(__file__).with_name("member_child.py")
ROOT = Path(__file__).parents[2]
ITEMS = 2000 if LONG else 150


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(REAL_SECONDS):
            return (await self.process.stdout.readline()).decode()

    async def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"run\n")
        await self.process.stdin.drain()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


class Site:
    """A batch, and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out.jsonl"
        self._calls = folder / "calls"
        self._calls.touch()
        self._store = folder / "s"
        self._all: list[Child] = []

    async def start(self, role: str) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), str(self._store), role),
            *(str(self.out), str(self._calls), str(ITEMS)),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        child = Child(process)
        self._all.append(child)
        assert await child.says() == "ready\n"
        return child

    async def end(self) -> None:
        for child in self._all:
            if child.process.returncode is None:
                await child.kill()

    def calls(self) -> list[list[str]]:
        """Item, phase and process of each paid call."""
        whole, _, _ = self._calls.read_text().rpartition("\n")
        return [line.split() for line in whole.splitlines()]

    async def until_calls(self, count: int, *of: Child) -> None:
        """Wait until so many calls were made, and some by each of these processes."""

        def are_made() -> bool:
            calls = self.calls()
            makers = {pid for _, _, pid in calls}
            return len(calls) >= count and {str(one.process.pid) for one in of} <= makers

        await until(are_made)

    def check(self, report: str, kills: int) -> None:
        """The batch is complete, and nothing was done in vain but what processes died with."""
        total, succeeded, cost, spent = json.loads(report)
        assert (total, succeeded, cost) == (ITEMS, ITEMS, {"usd": ITEMS * PHASES})
        rows = rows_of(self.out)
        assert [row["output"] for row in rows] == [
            [number * PHASES + phase for phase in range(PHASES)] for number in range(ITEMS)
        ]
        made = Counter((item, phase) for item, phase, _ in self.calls())
        assert len(made) == ITEMS * PHASES
        assert made.total() <= ITEMS * PHASES + kills * WORKERS
        # What was under way when a process died may have been paid.
        assert made.total() <= spent["usd"] <= ITEMS * PHASES + kills * WORKERS


@pytest.fixture
async def site(short_path: Path) -> AsyncIterator[Site]:
    site = Site(short_path)
    yield site
    await site.end()


@pytest.mark.parametrize("dies", ["runs", "helps", "owns"])
async def test_a_batch_goes_on_when_a_process_dies(site: Site, dies: str) -> None:
    processes: dict[str, Child] = {"owns": await site.start("auto")}
    for name, role in (("runs", "worker"), ("helps", "auto")):
        processes[name] = await site.start(role)
    await processes["runs"].run()
    await site.until_calls(ITEMS, *processes.values())
    await processes[dies].kill()
    goes_on = processes["runs"]
    if dies == "runs":
        goes_on = processes["helps"]
        await goes_on.run()
    site.check(await goes_on.says(), kills=1)


async def test_a_process_that_runs_and_owns_everything_dies(site: Site) -> None:
    first = await site.start("auto")
    second = await site.start("auto")
    await first.run()
    await site.until_calls(ITEMS, first, second)
    await first.kill()
    await second.run()
    site.check(await second.says(), kills=1)


async def test_all_processes_of_a_batch_die_one_after_the_other(site: Site) -> None:
    alive = [await site.start("auto") for _ in range(2)]
    await alive[0].run()
    for number in range(3):
        await site.until_calls((number + 1) * ITEMS // 2, alive[0])
        runs = alive.pop(0)
        await runs.kill()
        await alive[0].run()
        alive.append(await site.start("auto"))
    site.check(await alive[0].says(), kills=3)
