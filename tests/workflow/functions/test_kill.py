"""A child that runs functions at full speed is killed again and again: nothing is lost."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from taquba import Queue
from taquba_workflow import RunState, WorkflowRuntime
from taquba_workflow._records import EndedRun, LiveRun
from tests.conftest import LONG
from tests.workflow.audit import jobs
from tests.workflow.functions.audit import Histories, audit, check_grown, read_histories
from tests.workflow.functions.functions_child import CONFIG, EXPECTED, signal_all, squares
from tests.workflow.test_kill import SECONDS, acknowledged, work_until_killed

CHILD = Path(__file__).with_name("functions_child.py")
KILLS = 60 if LONG else 4


def test_functions_survive_kill_9(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    log.touch()
    chance = random.Random()
    interrupted = 0
    recorded: Histories = {}
    for _ in range(KILLS):
        work_until_killed(CHILD, store, log, chance)
        found, recorded = asyncio.run(check_after_a_kill(store, acknowledged(log), recorded))
        interrupted += found
    assert interrupted > 0
    asyncio.run(check_the_end(store, acknowledged(log)))


async def check_after_a_kill(
    store: Path, promised: dict[str, set[str]], recorded: Histories
) -> tuple[int, Histories]:
    """Audit the store; returns how many runs were under way, and what they had done."""
    async with Queue.open(store, fsync=False, queue_configs=CONFIG) as queue:
        runs = await audit(queue)
        assert promised["started"] <= runs.keys()
        runtime = WorkflowRuntime(queue, workflows=[squares])
        for run_id in promised["cancelled"]:
            status = await runtime.status(run_id)
            assert status is not None
            assert status.state in (RunState.CANCELLED, RunState.CANCELLING)
        histories = await read_histories(queue)
        check_grown(recorded, histories)
    return sum(isinstance(run, LiveRun) for run in runs.values()), histories


async def check_the_end(store: Path, promised: dict[str, set[str]]) -> None:
    """What is left comes to its end."""
    async with (
        Queue.open(store, fsync=False, queue_configs=CONFIG) as queue,
        asyncio.timeout(SECONDS),
        WorkflowRuntime(queue, workflows=[squares]) as runtime,
    ):
        while await jobs(queue, "workflow"):
            await signal_all(queue, runtime)
        for run_id, run in (await audit(queue)).items():
            assert isinstance(run, EndedRun)
            if run.state is RunState.CANCELLED:
                continue
            assert run.state is RunState.SUCCEEDED, run
            assert run_id not in promised["cancelled"]
            if run_id in promised["started"]:
                assert await runtime.handle(squares, run_id).result() == EXPECTED
