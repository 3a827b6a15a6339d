"""Workflows in every process of a service: the same program, while owners and members are killed.

Every run ends once and with the right result; what a process that lives is running goes on, and
runs once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from taquba import Queue, Service, StoreError
from taquba_workflow import (
    CallKind,
    CallState,
    RunSpec,
    RunState,
    SignalOutcome,
    StartOptions,
    WorkflowRuntime,
)
from taquba_workflow._records import EndedRun
from tests.service import support
from tests.service.support import PATIENCE, until
from tests.workflow.audit import SIGNALS, read_runs
from tests.workflow.members_child import NO_WAIT, gated, parent, program, signalled
from tests.workflow.support import entries

CHILD = Path(__file__).with_name("members_child.py")


class Site(support.Site[support.Child]):
    """A store and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CHILD, support.Child)
        self.gate = folder / "gate"

    async def start(self, role: str) -> support.Child:
        return await self.begin(role)

    async def three(self) -> list[support.Child]:
        """The owner, and two that may follow it."""
        first = await self.start("auto")
        await until(lambda: first.is_owner)
        others = [await self.start("auto"), await self.start("auto")]
        await until(lambda: all(child.log.read_text() for child in others))
        return [first, *others]

    async def owner(self) -> support.Child:
        await until(lambda: any(child.is_owner for child in self._all))
        return next(child for child in self._all if child.is_owner)

    def reports(self, kind: str) -> Counter[str]:
        return Counter(report for child in self._all for report in child.reports(kind))


@pytest.fixture
async def site(short_path: Path) -> AsyncIterator[Site]:
    found = Site(short_path)
    yield found
    await found.close()


@contextlib.asynccontextmanager
async def elsewhere(site: Site) -> AsyncGenerator[WorkflowRuntime]:
    """The program in a process that neither owns nor works."""
    service = Service(site.url, role="producer", fsync=False, default_config=NO_WAIT)
    runtime = program(service)
    async with service:
        yield runtime


async def until_waiting(runtime: WorkflowRuntime, run_id: str) -> None:
    while await state_of(runtime, run_id) is not RunState.WAITING:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def state_of(runtime: WorkflowRuntime, run_id: str) -> RunState:
    status = await runtime.status(run_id)
    assert status is not None
    return status.state


async def test_what_one_process_starts_others_run_and_signal(site: Site) -> None:
    children = await site.three()
    async with elsewhere(site) as one, elsewhere(site) as other, asyncio.timeout(PATIENCE):
        assert await one.signal("early", b"before") is SignalOutcome.BUFFERED
        assert await other.clear_signal("early")
        # As many as have places in all three.
        handles = [await one.start(gated, str(site.gate)) for _ in range(60)]
        await until(lambda: site.reports("began").total() == 3 * len(handles))
        assert all(child.reports("began") for child in children)
        site.gate.touch()
        for handle in handles:
            assert await other.handle(gated, handle.run_id) == [1, 4, 9, 4]
        waits = await one.start_with(StartOptions(run_id="waits"), signalled, 1)
        again = await other.start_with(StartOptions(run_id="waits"), signalled, 1)
        assert (waits.new, again.new) == (True, False)
        await until_waiting(other, "waits")
        assert await other.signal("waits", b"hello") is SignalOutcome.DELIVERED
        assert await again == ["hello"]
        family = await other.start(parent, 20)
        assert await family == sum(range(20))
        history = await one.history(family.run_id)
        assert [call.state for call in history] == [CallState.DONE] * 20
        endless = await one.start(signalled, 1)
        assert await other.cancel(endless.run_id)
        assert await endless.status() is not None
        assert await other.parked() == []
    assert set(site.reports("began").values()) == {1}


@pytest.mark.parametrize("whom", ["owner", "member", "both"])
async def test_runs_outlive_the_processes_that_run_them(site: Site, whom: str) -> None:
    first, second, third = await site.three()
    functions = [f"f{number}" for number in range(12)]
    steps = [f"s{number}" for number in range(12)]
    async with elsewhere(site) as one, elsewhere(site) as other, asyncio.timeout(PATIENCE):
        for run_id in functions:
            await one.start_with(StartOptions(run_id=run_id), gated, str(site.gate))
        for run_id in steps:
            await one.submit(RunSpec(str(site.gate).encode(), run_id=run_id))
        await until(lambda: site.reports("began").total() == 3 * len(functions) + len(steps))
        killed = {"owner": [first], "member": [second], "both": [first, second]}[whom]
        died = {report for child in killed for report in child.reports("began")}
        for child in killed:
            child.process.kill()
        if first in killed:
            await until(lambda: second.is_owner or third.is_owner)
        site.gate.touch()
        for run_id in functions:
            assert await other.handle(gated, run_id) == [1, 4, 9, 4]
        for run_id in steps:
            await until_waiting(other, run_id)
            await other.signal(run_id, run_id.encode())
            status = await one.wait_for_completion(run_id, PATIENCE)
            assert status is not None
            assert (status.state, status.result) == (RunState.SUCCEEDED, run_id.encode())
    began = site.reports("began")
    for run_id in functions:
        for name in ("wait2", "wait3"):
            assert began[f"{name} {run_id}"] == 1 + (f"{name} {run_id}" in died)
        assert began[f"quick1 {run_id}"] == began[f"quick4 {run_id}"] == 1
    for run_id in steps:
        assert began[f"step0 {run_id}"] == 1 + (f"step0 {run_id}" in died)
        assert began[f"step1 {run_id}"] == 1
    paid = site.reports("paid")
    assert paid == {f"{number} {run_id}": 1 for run_id in steps for number in range(2)}
    await check_the_end(site, len(functions) + len(steps))


async def test_signals_are_neither_lost_nor_doubled_when_owners_die(site: Site) -> None:
    count = 8
    runs = [f"r{number}" for number in range(6)]
    await site.three()
    async with elsewhere(site) as one, elsewhere(site) as other, asyncio.timeout(PATIENCE):
        for run_id in runs:
            await one.start_with(StartOptions(run_id=run_id), signalled, count)
        sent = 0

        async def send_all(run_id: str) -> None:
            nonlocal sent
            for number in range(count):
                await deliver((one, other)[number % 2], run_id, number)
                sent += 1

        async with asyncio.TaskGroup() as tasks:
            for run_id in runs:
                tasks.create_task(send_all(run_id))
            for part in (1, 2):
                await until(lambda part=part: sent >= part * len(runs) * count / 3)  # type: ignore[misc]
                await (await site.owner()).kill()
                await site.start("auto")
        for run_id in runs:
            result = await other.handle(signalled, run_id)
            assert result == [str(number) for number in range(count)]
    await check_the_end(site, len(runs))


async def deliver(runtime: WorkflowRuntime, run_id: str, number: int) -> None:
    """Send a signal, and wait until it was taken; again only if it is certain that it was not."""
    while True:
        with contextlib.suppress(StoreError):
            await runtime.signal(run_id, str(number).encode())
        while True:
            # First, because the run may go on between the two.
            waits = await state_of(runtime, run_id) is RunState.WAITING
            taken = [
                call
                for call in await runtime.history(run_id)
                if call.kind is CallKind.SIGNAL and call.state is CallState.DONE
            ]
            if len(taken) > number:
                return
            if waits:
                break
            await asyncio.sleep(0.005)


async def test_parents_hear_of_their_children_when_owners_and_members_die(site: Site) -> None:
    _, second, _ = await site.three()
    async with elsewhere(site) as one, asyncio.timeout(PATIENCE):
        families = [f"p{number}" for number in range(4)]
        for run_id in families:
            await one.start_with(StartOptions(run_id=run_id), parent, 30)
        await until(lambda: site.reports("began").total() >= 40)
        await (await site.owner()).kill()
        await site.start("auto")
        await until(lambda: site.reports("began").total() >= 80)
        await second.kill()
        for run_id in families:
            assert await one.handle(parent, run_id) == sum(range(30))
    await check_the_end(site, len(families) * 31)


async def check_the_end(site: Site, runs: int) -> None:
    """Nothing is left but what retention keeps."""
    async with (
        Service(site.url, role="producer", fsync=False) as service,
        asyncio.timeout(PATIENCE),
    ):
        while (stats := await service.stats("workflow")).pending + stats.claimed:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    await site.close()
    async with Queue.open(site.url, fsync=False, inbox=True) as queue:
        states = Counter(type(run) for run in (await read_runs(queue)).values())
        assert states == {EndedRun: runs}
        stats = await queue.stats("workflow")
        assert (stats.pending, stats.scheduled, stats.claimed, stats.dead) == (0, 0, 0, 0)
        assert await entries(queue, SIGNALS) == {}
