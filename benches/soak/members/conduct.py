"""Starts members, troubles them, and lets them work everything off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benches.soak.history import HistoryWriter
from benches.soak.members.plan import Plan

ROOT = Path(__file__).parents[3]

START_SECONDS = 60.0
STOP_SECONDS = 60.0
DRAIN_SECONDS = 180.0
STANDING_BY = 2
"""So many members stand for election whatever happens to the others."""


class Process:
    """The process of one member."""

    def __init__(self, process: asyncio.subprocess.Process, number: int, place: int) -> None:
        self.process = process
        self.number = number
        self.place = place
        self.role = ""
        self.started = asyncio.Event()
        self.drained = False
        self.expected = False
        """Whether it was told to end, or killed."""
        self.suspended = False

    async def listen(self) -> None:
        """Follow what it prints, until it ends."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode().strip():
            if line == "drained":
                self.drained = True
            else:
                self.role = line
            self.started.set()
        await self.process.wait()
        self.started.set()

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(line.encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Conductor:
    """Runs a soak of members on a new folder; the logs go into `folder`.

    Args:
        folder: Where the logs go, and the store.
        plan: How the members work.
        seconds: How long the trouble lasts.
        rest: How long the members are left in peace, least and most.
    """

    def __init__(self, folder: Path, plan: Plan, seconds: float, rest: tuple[float, float]) -> None:
        self.folder = folder
        self.plan = plan
        self.seconds = seconds
        self.rest = rest
        self.random = random.Random(plan.seed)
        self.history = HistoryWriter(folder / "conductor.jsonl")
        self.history.write(event="plan", plan=plan.dump())
        self.at: dict[int, Process] = {}
        """The member at each place."""
        self._started = 0
        self._killers = 0
        self._watching: set[asyncio.Task[None]] = set()
        self._replaces = True
        self._enough = False
        self._stopped: list[Process] = []

    async def run(self) -> None:
        """The whole soak: trouble, peace until everything is worked off, and the end."""
        try:
            for place in range(self.plan.members):
                await self._start(place)
            await self._trouble()
            await self._drain()
            self._replaces = False
            owner = self._owner()
            # Without an owner the calls of the others would wait for one.
            for process in sorted(self.at.values(), key=lambda one: one is owner):
                await self._stop(process)
            await self._examine()
        finally:
            self._replaces = False
            for process in [*self.at.values(), *self._stopped]:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGKILL)
                await process.process.wait()
            await asyncio.gather(*self._watching)
            self.history.close()

    # -- members ----------------------------------------------------------------------------

    async def _start(self, place: int) -> Process:
        self._started += 1
        number = self._started
        role = "auto" if place < STANDING_BY or place % 2 else "worker"
        with (self.folder / f"stderr-{number:05}").open("wb") as errors:
            process = Process(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "benches.soak.members.member"),
                    *(str(self.folder), str(number), role, self.plan.dump()),
                    cwd=ROOT,
                    env=os.environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                ),
                number,
                place,
            )
        self.at[place] = process
        self.history.write(event="starts", member=number, role=role, pid=process.process.pid)
        watching = asyncio.create_task(self._watch(process))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        if self._enough:
            process.say("enough")
        return process

    async def _watch(self, process: Process) -> None:
        """Replace a member that ends, whatever the reason."""
        await process.listen()
        code = process.process.returncode
        self.history.write(event="ended", member=process.number, code=code)
        errors = await asyncio.to_thread(
            (self.folder / f"stderr-{process.number:05}").read_text, "utf-8", "replace"
        )
        if code not in (0, -signal.SIGKILL) or "Traceback" in errors:
            self._problem(f"member {process.number} ended with {code}: see its stderr")
        if code == 0 and not process.expected:
            self._problem(f"member {process.number} stopped by itself")
        if self._replaces and self.at.get(process.place) is process:
            await self._start(process.place)

    def _problem(self, what: str) -> None:
        self.history.write(event="problem", what=what)

    def _owner(self) -> Process | None:
        owners = [one for one in self.at.values() if one.role == "owner" and not one.ended]
        return owners[0] if owners else None

    def _other(self) -> Process | None:
        """A member that is not the owner."""
        owner = self._owner()
        return self.random.choice([one for one in self.at.values() if one is not owner])

    # -- trouble ----------------------------------------------------------------------------

    async def _trouble(self) -> None:
        troubles: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill_member, 3),
            (self._kill_owner, 3),
            (self._kill_both, 1),
            (self._suspend_member, 3),
            (self._suspend_owner, 1),
            (self._replace_member, 2),
            (self._replace_owner, 2),
            (self._killer_job, 4),
        ]
        actions, weights = zip(*troubles, strict=True)
        until = time.monotonic() + self.seconds
        for process in list(self.at.values()):
            async with asyncio.timeout(START_SECONDS):
                await process.started.wait()
        # However short the soak is, there are some of each.
        first = [self._killer_job, self._kill_member, self._kill_owner, self._suspend_member]
        while time.monotonic() < until:
            action = first.pop(0) if first else self.random.choices(actions, weights)[0]
            begin = time.monotonic()
            await action()
            what = action.__name__.strip("_").replace("_", " ")
            self.history.write(event="trouble", what=what, begin=begin)
            await asyncio.sleep(self.random.uniform(*self.rest))

    async def _kill(self, *processes: Process | None) -> None:
        found = [one for one in processes if one is not None]
        for process in found:
            self.history.write(event="kills", member=process.number)
            process.signal(signal.SIGKILL)
        for process in found:
            await process.process.wait()

    async def _kill_member(self) -> None:
        await self._kill(self._other())

    async def _kill_owner(self) -> None:
        await self._kill(self._owner())

    async def _kill_both(self) -> None:
        await self._kill(self._owner(), self._other())

    async def _suspend(self, process: Process | None) -> None:
        if process is None:
            return
        self.history.write(event="suspends", member=process.number)
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(0.5, 2) * self.plan.lease)
        process.signal(signal.SIGCONT)
        self.history.write(event="resumes", member=process.number)

    async def _suspend_member(self) -> None:
        await self._suspend(self._other())

    async def _suspend_owner(self) -> None:
        await self._suspend(self._owner())

    async def _replace(self, process: Process | None) -> None:
        """As in a rolling restart: another one comes, and this one stops."""
        if process is None:
            return
        successor = await self._start(process.place)
        await successor.started.wait()
        self._stopped.append(process)
        await self._stop(process)
        self._stopped.remove(process)

    async def _replace_member(self) -> None:
        await self._replace(self._other())

    async def _replace_owner(self) -> None:
        await self._replace(self._owner())

    async def _stop(self, process: Process) -> None:
        process.expected = True
        process.say("stop")
        try:
            await asyncio.wait_for(process.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._problem(f"member {process.number} did not stop within {STOP_SECONDS:.0f} s")
            await self._kill(process)

    async def _killer_job(self) -> None:
        """Enqueue a job that ends its process."""
        process = self.random.choice(list(self.at.values()))
        process.say(f"killer {self.random.choice((0, 10, 100))}")

    # -- the end ----------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._enough = True
        self.history.write(event="enough")
        for process in self.at.values():
            process.say("enough")
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not any(  # noqa: ASYNC110 - processes come and go
                    one.drained and not one.ended for one in self.at.values()
                ):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._problem(f"not everything was worked off within {DRAIN_SECONDS:.0f} s")

    async def _examine(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benches.soak.members.stored"),
            *(self.plan.url, str(self.folder / "stored.json")),
            cwd=ROOT,
        )
        if await process.wait():
            raise RuntimeError("the store could not be examined; see standard error")


async def soak_members(
    folder: Path,
    *,
    seconds: float,
    members: int,
    rate: float,
    seed: int,
    lease: float = 3.0,
    rest: tuple[float, float] = (1.0, 6.0),
    killers: float = 0.0005,
) -> None:
    """Run a soak of members, whose logs go into a new folder."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    plan = Plan(
        url=str(folder / "store"),
        seed=seed,
        rate=rate,
        members=members,
        lease=lease,
        killers=killers,
    )
    await Conductor(folder, plan, seconds, rest).run()
