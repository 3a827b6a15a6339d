"""Takes part in a service, and runs steps and functions, until it is stopped or killed.

    python members_child.py STORE LOG ROLE

The program is the same in every process: the runtime is made when the module is imported. Each
report is one line of the log, written whole: ``began NAME RUN``, ``ended NAME RUN``, and ``owner``
or ``worker`` when the role changed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Literal, cast

from taquba import QueueConfig, Service, Store
from taquba_workflow import (
    Continue,
    OnSignal,
    Step,
    StepOutcome,
    Succeed,
    WorkflowContext,
    WorkflowRuntime,
    current_step,
    step,
    workflow,
)

NO_WAIT = QueueConfig(retry_backoff_base=0, retry_jitter=0)


class Log:
    """Where a process reports what it does."""

    file = -1

    def report(self, *words: object) -> None:
        if self.file >= 0:
            os.write(self.file, (" ".join(map(str, words)) + "\n").encode())


log = Log()


async def until_exists(path: str) -> None:
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - nothing tells
        await asyncio.sleep(0.01)


@step(max_attempts=10**6, backoff=0.001)
async def wait_for(gate: str, number: int) -> int:
    """Runs until a file exists."""
    run_id = current_step().run_id
    log.report("began", f"wait{number}", run_id)
    await until_exists(gate)
    log.report("ended", f"wait{number}", run_id)
    return number * number


@step(max_attempts=10**6, backoff=0.001)
async def quick(number: int) -> int:
    log.report("began", f"quick{number}", current_step().run_id)
    return number


@workflow(name="gated")
async def gated(ctx: WorkflowContext, gate: str) -> list[int]:
    """A step before, some at once that wait for a file, and one after."""
    first = await ctx.step(quick, 1)
    parts = await ctx.gather(*(ctx.step(wait_for, gate, number) for number in range(2, 4)))
    return [first, *parts, await ctx.step(quick, 4)]


@workflow(name="signalled")
async def signalled(ctx: WorkflowContext, signals: int) -> list[str]:
    """Waits for signals, one after the other, under one key."""
    return [(await ctx.wait_signal(ctx.run_id)).decode() for _ in range(signals)]


@workflow(name="leaf")
async def leaf(ctx: WorkflowContext, number: int) -> int:
    await ctx.sleep(0.01 * (number % 3))
    return await ctx.step(quick, number)


@workflow(name="parent")
async def parent(ctx: WorkflowContext, children: int) -> int:
    return sum(await ctx.gather(*(ctx.child(leaf, number) for number in range(children))))


class Steps:
    """Steps that wait for a file, which their run's input names, and pay once."""

    async def run_step(self, step: Step) -> StepOutcome:
        gate = step.payload.decode()
        if step.step_number == 2:
            return Succeed(step.signal or b"")
        if await step.memo.get("paid") is None:
            log.report("paid", step.step_number, step.run_id)
            await step.memo.put("paid", b"yes")
        log.report("began", f"step{step.step_number}", step.run_id)
        await until_exists(gate)
        log.report("ended", f"step{step.step_number}", step.run_id)
        if step.step_number:
            return Continue(step.payload, OnSignal(step.run_id))
        return Continue(step.payload)


def program(store: Store) -> WorkflowRuntime:
    """The runtime that every process has."""
    return WorkflowRuntime(
        store,
        Steps(),
        workflows=[gated, signalled, leaf, parent],
        max_concurrent_steps=20,
    )


async def watch(service: Service) -> None:
    role = None
    while True:
        if service.role != role:
            role = service.role
            log.report(role)
        await asyncio.sleep(0.005)


async def take_part(service: Service, runtime: WorkflowRuntime, log_path: str) -> None:
    log.file = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with service, runtime:
        watching = asyncio.create_task(watch(service))
        await stop.wait()
        watching.cancel()


if __name__ == "__main__":
    url, log_path, role = sys.argv[1:4]
    service = Service(
        url,
        role=cast('Literal["auto", "worker"]', role),
        fsync=False,
        default_config=NO_WAIT,
    )
    asyncio.run(take_part(service, program(service), log_path))
