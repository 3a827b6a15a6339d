"""A child at full speed is killed again and again; nothing acknowledged is lost (I1-I3, I8)."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from taquba import JobStatus, Queue
from taquba.testing import MockClock
from tests.crash.audit import Dump, audit
from tests.crash.children import ChildProcess, Ledger
from tests.crash.worker_child import CONFIG


async def work_until_killed(child: ChildProcess, chance: random.Random) -> None:
    """Let the child work, and kill it: mostly in full work, sometimes while it opens."""
    child.go()
    if chance.random() < 0.15:
        await asyncio.sleep(chance.uniform(0, 0.06))
    else:
        await child.first_report()
        await asyncio.sleep(chance.uniform(0.05, 0.4))
    child.kill()


async def examine(store: Path, ledger: Ledger) -> tuple[Queue, Dump]:
    """Open the store as its next owner, and check everything that was promised."""
    # A clock that stands still: nothing is promoted, retried or swept while rows are read.
    clock = MockClock(datetime.now(UTC))
    queue = await Queue.open(str(store), default_config=CONFIG, clock=clock, fsync=False)
    await clock.advance(0)
    state = await audit(queue)
    assert not state.with_status(JobStatus.CLAIMED), "a job is claimed, but nobody holds it"
    ledger.check(state)
    return queue, state


async def kill_again_and_again(folder: Path, kills: int, seed: int, *, fsync: bool) -> Dump:
    chance = random.Random(seed)
    store = folder / "store"
    ledger = Ledger()
    queue = state = None

    def start(number: int) -> ChildProcess:
        return ChildProcess(store, folder / f"log{number}", seed * 1000 + number, fsync=fsync)

    child = start(0)
    for number in range(kills):
        with child:
            if queue is not None and chance.random() < 0.5:
                await queue.close()
            # An owner that is still open is fenced by the child, and leaves nothing behind that
            # only a clean close writes.
            await work_until_killed(child, chance)
            ledger.read(child.reports())
        if queue is not None:
            await queue.close()
        # The next child starts while this one's store is examined, and waits to be let go.
        child = start(number + 1)
        try:
            queue, state = await examine(store, ledger)
        except BaseException:
            child.close()
            raise
    child.close()
    assert queue is not None
    assert state is not None
    await queue.close()
    return state


async def test_nothing_acknowledged_is_lost_over_kills(tmp_path: Path) -> None:
    state = await kill_again_and_again(tmp_path, 16, 1, fsync=False)
    # The children did work of every kind; what a kill interrupts runs alone afterwards, one by one.
    assert len(state.entries("acked/")) > 250
    assert state.entries("dead/")
    assert state.entries("cancelled/")
    assert state.entries("batch/")


async def test_nothing_acknowledged_is_lost_over_kills_of_a_synced_folder(tmp_path: Path) -> None:
    state = await kill_again_and_again(tmp_path, 6, 2, fsync=True)
    assert state.entries("acked/")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
async def test_nothing_acknowledged_is_lost_over_many_kills(tmp_path: Path, seed: int) -> None:
    await kill_again_and_again(tmp_path, 40, seed, fsync=seed % 2 == 0)
