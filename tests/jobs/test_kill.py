"""kill -9 while jobs run: each has exactly one outcome, and the next owner gives it out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taquba import Queue
from taquba.testing import MockClock
from taquba_jobs import JobRunner, gather
from tests.conftest import LONG
from tests.jobs.kill_child import CONFIG, Log, square
from tests.jobs.support import entries

ROOT = Path(__file__).parent.parent.parent
COUNT = 400
KILLS = 20 if LONG else 3


def lines(log: Path, what: str) -> Counter[int]:
    text = log.read_text("ascii") if log.exists() else ""
    # The last line may be cut off.
    found = [line.split() for line in text.split("\n")[:-1]]
    return Counter(int(number) for kind, number in found if kind == what)


async def kill_after(folder: Path, log: Path, more: int) -> None:
    """Run the owner until it has seen the ends of `more` further jobs; then SIGKILL."""
    enough = min(COUNT, sum(lines(log, "known").values()) + more)
    command = ["-m", "tests.jobs.kill_child", str(folder), str(log), str(COUNT)]
    child = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
    try:
        async with asyncio.timeout(60):
            while sum(lines(log, "known").values()) < enough:
                assert child.returncode is None, "the child ended by itself"
                await asyncio.sleep(0.005)
    finally:
        child.kill()
        await child.wait()


@pytest.mark.allow_blocking("the test reads files and starts processes")
async def test_results_are_there_once_after_kills(tmp_path: Path) -> None:
    folder, log = tmp_path / "store", tmp_path / "log"
    for _ in range(KILLS):
        # Those that were known before come at once in the next life, so each life gets further.
        await kill_after(folder, log, COUNT // (2 * KILLS) + 7)
    known = lines(log, "known")
    ran_before = lines(log, "ran")
    assert known

    state = Log(os.open(log, os.O_WRONLY | os.O_APPEND))
    # The children had the machine's time.
    clock = MockClock(datetime.now(UTC))
    async with (
        Queue.open(folder, default_config=CONFIG, fsync=False, clock=clock) as queue,
        JobRunner(queue, jobs=[square], state=state) as runner,
    ):
        handles = await gather(runner.submit(square, number) for number in range(COUNT))
        results = await gather(handles)
        assert [result for result, _ in results] == [number * number for number in range(COUNT)]
        assert {len(data) for _, data in results[::5]} == {100_000}
        ran = lines(log, "ran")
        # What its submitter knew did not run again.
        assert all(ran[number] == ran_before[number] for number in known)
        assert set(ran) == set(range(COUNT))
        stats = await queue.stats("jobs")
        assert (stats.done, stats.dead, stats.pending, stats.claimed) == (COUNT, 0, 0, 0)
        kinds = Counter(key.split("/")[1] for key, _ in await entries(queue))
        assert kinds["outcome"] == kinds["key"] == COUNT
        assert not kinds["progress"]

        # In the end nothing is left, not even what was uploaded for attempts that were killed.
        await clock.advance(timedelta(days=8))
        assert await entries(queue) == []
        assert [info async for info in queue.objects.list()] == []
    os.close(state.file)
