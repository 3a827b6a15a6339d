"""A process that submits, steers and runs workflow runs at full speed, until it is killed.

python runs_child.py STORE LOG SEED

Everything that was acknowledged to it goes to LOG, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from itertools import count
from pathlib import Path
from typing import TextIO

from taquba import Queue, QueueConfig
from taquba_workflow import (
    After,
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    Step,
    StepError,
    StepOutcome,
    Succeed,
    WorkflowRuntime,
)

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.workflow.audit import Told, mark, read_runs

CONFIG = {"workflow": QueueConfig(max_attempts=10**6, retry_backoff_base=0, retry_jitter=0)}
STEPS = 5


def trigger_of(run_id: str, step_number: int) -> After | OnSignal | None:
    """What a step waits for, the same in every process."""
    if step_number == 0:
        return None
    chance = random.Random(f"{run_id}/{step_number}")
    match chance.randrange(4):
        case 0:
            return After(0.01)
        case 1:
            return OnSignal(f"{run_id}/{step_number}")
        case _:
            return None


async def run_step(step: Step) -> StepOutcome:
    mark(step)
    waited = trigger_of(step.run_id, step.step_number)
    if isinstance(waited, OnSignal) and step.signal != waited.key.encode():
        raise StepError.permanent(f"waited for {waited.key} and got {step.signal!r}")
    if random.random() < 0.1:
        await step.memo.put("k", b"v")
    if random.random() < 0.05:
        raise ValueError("try again")
    if step.step_number == STEPS:
        return Succeed(step.payload)
    following = trigger_of(step.run_id, step.step_number + 1)
    payload = step.payload + b"%d" % step.step_number
    return Continue(payload) if following is None else Continue(payload, following)


class Runner:
    async def run_step(self, step: Step) -> StepOutcome:
        return await run_step(step)


class Child:
    def __init__(self, log: TextIO, seed: str) -> None:
        self._log = log
        self._random = random.Random(seed)

    def report(self, *words: str) -> None:
        self._log.write(" ".join(words) + "\n")
        self._log.flush()

    async def submit(self, runtime: WorkflowRuntime) -> None:
        for number in count():
            run_id = f"{os.getpid()}-{id(asyncio.current_task())}-{number}"
            outcome = await runtime.submit(RunSpec(run_id.encode(), run_id=run_id))
            assert outcome.new
            self.report("submitted", run_id)
            if self._random.random() < 0.1:
                await asyncio.sleep(self._random.random() * 0.01)
                if await runtime.cancel(run_id):
                    self.report("cancelled", run_id)

    async def signal(self, queue: Queue, runtime: WorkflowRuntime) -> None:
        while True:
            await signal_all(queue, runtime)

    async def work(self, store: str) -> None:
        async with Queue.open(store, fsync=False, queue_configs=CONFIG) as queue:
            runtime = WorkflowRuntime(queue, Runner(), hook=Told(), step_output_replay=True)
            async with runtime, asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(self.submit(runtime))
                tasks.create_task(self.signal(queue, runtime))


async def signal_all(queue: Queue, runtime: WorkflowRuntime) -> None:
    """Send what waits its signal; also what a process before this one left waiting."""
    for run_id in await read_runs(queue):
        status = await runtime.status(run_id)
        if status is not None and status.state is RunState.WAITING:
            (key,) = status.signal_keys
            await runtime.signal(key, key.encode())


if __name__ == "__main__":
    with open(sys.argv[2], "a") as log, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Child(log, sys.argv[3]).work(sys.argv[1]))
