"""A child that works on runs at full speed is killed again and again: no run is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from taquba import Queue
from taquba_workflow import RunState, WorkflowRuntime
from taquba_workflow._records import EndedRun, LiveRun
from tests.conftest import LONG
from tests.workflow.audit import Told, audit, jobs
from tests.workflow.runs_child import CONFIG, Runner, signal_all

CHILD = Path(__file__).with_name("runs_child.py")
KILLS = 60 if LONG else 4
SECONDS = 60


def work_until_killed(program: Path, store: Path, log: Path, chance: random.Random) -> None:
    size = log.stat().st_size
    seed = str(chance.random())
    child = subprocess.Popen([sys.executable, str(program), str(store), str(log), seed])
    try:
        deadline = time.monotonic() + SECONDS
        while log.stat().st_size == size:
            assert child.poll() is None, "the child ended by itself"
            assert time.monotonic() < deadline, "the child does not work"
            time.sleep(0.005)
        time.sleep(chance.random() * 0.5)
        assert child.poll() is None, "the child ended by itself"
    finally:
        child.kill()
        child.wait()


def acknowledged(log: Path) -> dict[str, set[str]]:
    whole, _, _ = log.read_text().rpartition("\n")
    found: dict[str, set[str]] = defaultdict(set)
    for line in whole.splitlines():
        kind, run_id = line.split(" ")
        found[kind].add(run_id)
    return found


def test_runs_survive_kill_9(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    log.touch()
    chance = random.Random()
    interrupted = 0
    for _ in range(KILLS):
        work_until_killed(CHILD, store, log, chance)
        interrupted += asyncio.run(check_after_a_kill(store, acknowledged(log)))
    assert interrupted > 0
    asyncio.run(check_the_end(store, acknowledged(log)))


async def check_after_a_kill(store: Path, promised: dict[str, set[str]]) -> int:
    """Audit the store; returns how many runs were under way."""
    async with Queue.open(store, fsync=False, queue_configs=CONFIG) as queue:
        runs = await audit(queue)
        assert promised["submitted"] <= runs.keys()
        runtime = WorkflowRuntime(queue, Runner(), hook=Told())
        for run_id in promised["cancelled"]:
            status = await runtime.status(run_id)
            assert status is not None
            assert status.state in (RunState.CANCELLED, RunState.CANCELLING)
    return sum(isinstance(run, LiveRun) for run in runs.values())


async def check_the_end(store: Path, promised: dict[str, set[str]]) -> None:
    """What is left comes to its end."""
    async with Queue.open(store, fsync=False, queue_configs=CONFIG) as queue:
        async with (
            asyncio.timeout(SECONDS),
            WorkflowRuntime(queue, Runner(), hook=Told()) as runtime,
        ):
            while await jobs(queue, "workflow"):
                await signal_all(queue, runtime)
        for run_id, run in (await audit(queue)).items():
            assert isinstance(run, EndedRun)
            if run.state is RunState.SUCCEEDED:
                assert run.result == b"\0" + run_id.encode() + b"01234"
                assert run_id not in promised["cancelled"]
            else:
                # It was asked to, even if the answer was cut off.
                assert run.state is RunState.CANCELLED, run
