"""A process that starts, signals, cancels and runs functions at full speed, until it is killed.

python functions_child.py STORE LOG SEED

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
    RunFailed,
    RunState,
    StartOptions,
    WorkflowContext,
    WorkflowRuntime,
    step,
    workflow,
)

sys.path.insert(0, str(Path(__file__).parent.parent.parent.parent))

from tests.workflow.audit import read_runs

CONFIG = {"workflow": QueueConfig(max_attempts=10**6, retry_backoff_base=0, retry_jitter=0)}


@step(max_attempts=10**6, backoff=0.001, backoff_max=0.01)
async def work(number: int) -> int:
    """Now and then it fails; its result could only come from running it."""
    if random.random() < 0.1:
        raise ValueError("try again")
    if random.random() < 0.3:
        await asyncio.sleep(random.random() * 0.01)
    return number * number


def work_in_a_thread(number: int) -> int:
    return number * number


@workflow(name="squares")
async def squares(ctx: WorkflowContext, depth: int) -> int:
    """The sum of some squares, by every kind of call."""

    async def branch(number: int) -> int:
        if number % 2:
            await ctx.sleep(0.002 * number)
        elif depth == 2:
            signal = await ctx.wait_signal(f"{ctx.run_id}/{number}")
            assert signal == f"{ctx.run_id}/{number}".encode()
        return await ctx.step(work, number)

    total = await ctx.step(work, 1)
    ctx.on_failure(work, 1)
    parts = await ctx.gather(*(branch(number) for number in range(2, 5)))
    total += sum(parts) + await ctx.step(work_in_a_thread, 5)
    if depth:
        total += await ctx.child(squares, depth - 1)
    return total


EXPECTED = 3 * (1 + 4 + 9 + 16 + 25)


class Child:
    def __init__(self, log: TextIO, seed: str) -> None:
        self._log = log
        self._random = random.Random(seed)

    def report(self, *words: str) -> None:
        self._log.write(" ".join(words) + "\n")
        self._log.flush()

    async def start(self, runtime: WorkflowRuntime) -> None:
        for number in count():
            run_id = f"{os.getpid()}-{id(asyncio.current_task())}-{number}"
            handle = await runtime.start_with(StartOptions(run_id=run_id), squares, 2)
            assert handle.new
            self.report("started", run_id)
            if self._random.random() < 0.2:
                await asyncio.sleep(self._random.random() * 0.05)
                if await handle.cancel():
                    self.report("cancelled", run_id)
            with contextlib.suppress(RunFailed):
                assert await handle == EXPECTED

    async def signal(self, queue: Queue, runtime: WorkflowRuntime) -> None:
        while True:
            await signal_all(queue, runtime)

    async def work(self, store: str) -> None:
        async with (
            Queue.open(store, fsync=False, queue_configs=CONFIG) as queue,
            WorkflowRuntime(queue, workflows=[squares]) as runtime,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(8):
                tasks.create_task(self.start(runtime))
            tasks.create_task(self.signal(queue, runtime))


async def signal_all(queue: Queue, runtime: WorkflowRuntime) -> None:
    """Send every run the signals that it waits for; what is sent says what it is for."""
    for run_id in await read_runs(queue):
        status = await runtime.status(run_id)
        if status is not None and status.state is RunState.WAITING:
            for key in status.signal_keys:
                await runtime.signal(key, key.encode())
    await asyncio.sleep(0.01)


if __name__ == "__main__":
    with open(sys.argv[2], "a") as log:
        asyncio.run(Child(log, sys.argv[3]).work(sys.argv[1]))
