"""Signals, cancellations and ends of children from several processes, against turns.

The processes are handles on one event loop: the owner of a store and two members, each with the
same runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

import pytest

from taquba import Queue, Service, Store
from taquba_workflow import (
    Continue,
    OnSignal,
    RunSpec,
    RunState,
    SignalOutcome,
    StartOptions,
    Step,
    StepOutcome,
    Succeed,
    WorkflowContext,
    WorkflowRuntime,
    workflow,
)
from taquba_workflow._records import Buffered, decode_signal
from tests.conftest import LONG
from tests.workflow.audit import SIGNALS
from tests.workflow.members_child import NO_WAIT
from tests.workflow.support import entries

RUNS = 1000 if LONG else 120
STOP = b"stop"


def timeout_of(chance: random.Random) -> float | None:
    """Some waits are long, and some end while signals arrive."""
    return chance.choice((None, 0, 0.002, 0.01))


@workflow(name="receives")
async def receives(ctx: WorkflowContext, key: str) -> list[str]:
    """The signals that came, until one says that it is the last."""
    received: list[str] = []
    while True:
        signal = await ctx.wait_signal(key, timeout_of(ctx.random()))
        if signal == STOP:
            return received
        if signal is not None:
            received.append(signal.decode())


class Receives:
    """The same in steps: what came is their payload."""

    async def run_step(self, step: Step) -> StepOutcome:
        if step.signal == STOP:
            return Succeed(step.payload)
        payload = step.payload if step.signal is None else step.payload + b" " + step.signal
        timeout = timeout_of(random.Random(f"{step.run_id}/{step.step_number}"))
        return Continue(payload, OnSignal(step.run_id, timeout))


@contextlib.asynccontextmanager
async def runtimes(folder: Path) -> AsyncGenerator[list[WorkflowRuntime]]:
    url = folder / "s"

    def program(store: Store) -> WorkflowRuntime:
        return WorkflowRuntime(store, Receives(), workflows=[receives, naps, raises_children])

    async with contextlib.AsyncExitStack() as stack:
        options = {"fsync": False, "default_config": NO_WAIT}
        owner = Queue.open(url, inbox=True, producer_socket=True, **options)  # type: ignore[arg-type]
        stores: list[Store] = [await stack.enter_async_context(owner)]
        for _ in range(2):
            member = Service(url, role="worker", **options)  # type: ignore[arg-type]
            stores.append(await stack.enter_async_context(member))
        yield [await stack.enter_async_context(program(store)) for store in stores]


class Sent(NamedTuple):
    """A signal that was sent."""

    what: str
    outcome: SignalOutcome
    began: float
    ended: float


class Case:
    """A run, and what is done to it."""

    def __init__(self, run_id: str, everywhere: list[WorkflowRuntime], *, function: bool) -> None:
        self.run_id = run_id
        self._everywhere = everywhere
        self._function = function
        self._chance = random.Random(run_id)
        self._sent: list[Sent] = []
        self._cancelled = False

    @property
    def _anywhere(self) -> WorkflowRuntime:
        return self._chance.choice(self._everywhere)

    async def happen(self) -> None:
        if self._function:
            options = StartOptions(run_id=self.run_id)
            await self._anywhere.start_with(options, receives, self.run_id)
        else:
            await self._anywhere.submit(RunSpec(b"", run_id=self.run_id))
        cancels = self._chance.random() < 0.3
        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(self._send(name))
            if cancels:
                tasks.create_task(self._cancel())
        # A run that does not wait now finds it when it waits next.
        await self._signal(STOP.decode())
        await self._check()

    async def _send(self, name: str) -> None:
        for number in range(4):
            await asyncio.sleep(self._chance.choice((0, 0, 0.001, 0.005, 0.02)))
            await self._signal(f"{name}{number}")

    async def _signal(self, what: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome = await self._anywhere.signal(self.run_id, what.encode())
        self._sent.append(Sent(what, outcome, began, loop.time()))

    async def _cancel(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.05)
        two = [self._anywhere.cancel(self.run_id) for _ in range(2)]
        self._cancelled = any(await asyncio.gather(*two))

    async def _check(self) -> None:
        runtime = self._anywhere
        status = await runtime.wait_for_completion(self.run_id, 60)
        assert status is not None
        assert status.state is (RunState.CANCELLED if self._cancelled else RunState.SUCCEEDED)
        if self._cancelled:
            return
        if self._function:
            received = await runtime.handle(receives, self.run_id)
        else:
            received = (status.result or b"").decode().split()
        assert len(received) == len(set(received)), received
        for name in "ab":
            of_one = [what for what in received if what.startswith(name)]
            assert of_one == sorted(of_one)
        for sent in self._sent[:-1]:
            if sent.what not in received:
                # One that was kept may have been replaced by another that was kept.
                assert sent.outcome is SignalOutcome.BUFFERED
                assert any(
                    other.outcome is SignalOutcome.BUFFERED and other.ended > sent.began
                    for other in self._sent
                    if other is not sent
                )


@pytest.mark.parametrize("function", [True, False], ids=["functions", "steps"])
async def test_signals_and_cancels_from_everywhere(short_path: Path, function: bool) -> None:
    async with asyncio.timeout(120), runtimes(short_path) as everywhere:
        cases = [Case(f"r{n}", everywhere, function=function) for n in range(RUNS)]
        async with asyncio.TaskGroup() as tasks:
            for case in cases:
                tasks.create_task(case.happen())
    async with Queue.open(short_path / "s", fsync=False, inbox=True) as queue:
        left = [decode_signal(row) for row in (await entries(queue, SIGNALS)).values()]
        assert all(isinstance(row, Buffered) for row in left)
        stats = await queue.stats("workflow")
        assert (stats.pending, stats.scheduled, stats.claimed, stats.dead) == (0, 0, 0, 0)


@workflow(name="naps")
async def naps(ctx: WorkflowContext, number: int) -> int:
    for _ in range(ctx.random().randrange(3)):
        await ctx.sleep(ctx.random().choice((0, 0.001, 0.005)))
    return number


@workflow(name="raises-children")
async def raises_children(ctx: WorkflowContext, children: int) -> int:
    """Waits for its children, some of which end while it looks at others, and naps."""

    async def branch(number: int) -> int:
        if number % 3 == 0:
            await ctx.sleep(0.002)
        return await ctx.child(naps, number)

    return sum(await ctx.gather(*(branch(number) for number in range(children))))


async def test_no_end_of_a_child_is_missed(short_path: Path) -> None:
    families = 300 if LONG else 40
    async with asyncio.timeout(120), runtimes(short_path) as everywhere:
        handles = [
            await everywhere[number % 3].start(raises_children, 8) for number in range(families)
        ]
        for handle in handles:
            assert await handle == sum(range(8))
