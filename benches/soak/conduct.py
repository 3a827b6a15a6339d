"""Starts owners, troubles them, and samples what they and their store take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.soak.history import HistoryWriter
from benches.soak.places import STORMS, FolderPlace, S3Place
from benches.soak.plan import EXIT_FENCED, EXIT_STORE_LOST, Plan

ROOT = Path(__file__).parent.parent.parent

OPEN_SECONDS = 200
NOTICE_SECONDS = 90
"""Within which an owner must have noticed that it is fenced, and have ended."""
STOP_SECONDS = 150
DRAIN_SECONDS = 300
CLOCK_STEPS_MS = (-3_600_000, -60_000, -5_000, 5_000, 60_000, 3_600_000)
MOST_AHEAD_MS = 7_200_000


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long things take, seconds.

    Attributes:
        total: The trouble; working off what is left comes on top.
        wave: From one height of the load to the next.
        rest: How long an owner is left in peace, least and most.
        storm: How long a storm lasts, and the calm before it, least and most.
        long_rest: How long either peace lasts now and then.
        sample: Between two samples.
    """

    total: float
    wave: float
    rest: tuple[float, float]
    long_rest: tuple[float, float]
    storm: tuple[float, float]
    sample: float


def times_of(total: float) -> Times:
    """What suits a soak of `total` seconds."""
    if total < 120:
        return Times(
            total=total, wave=5, rest=(0.5, 2), long_rest=(1, 3), storm=(0.5, 2), sample=0.5
        )
    return Times(total=total, wave=60, rest=(2, 25), long_rest=(120, 240), storm=(3, 15), sample=5)


class Owner:
    """The process of one owner."""

    def __init__(self, process: asyncio.subprocess.Process, number: int) -> None:
        self.process = process
        self.number = number
        self.started = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    async def opens(self) -> bool:
        """Whether it had the store open before it ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(OPEN_SECONDS):
            return await self.process.stdout.readline() == b"open\n"

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(line.encode() + b"\n")

    async def ends_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.process.wait()

    def rss_mb(self) -> float | None:
        """Resident memory, where the system tells."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return None


class Conductor:
    """Runs a soak on one place; its history and those of the owners go into `folder`."""

    def __init__(
        self, place: FolderPlace | S3Place, folder: Path, times: Times, rate: float, seed: int
    ) -> None:
        self.place = place
        self.folder = folder
        self.times = times
        self.rate = rate
        self.random = random.Random(seed)
        self.begin = time.monotonic()
        self.history = HistoryWriter(folder / "conductor.jsonl")
        self.ahead_ms = self.most_ahead_ms = 0
        self.history.write(event="plan", plan=self._plan(drains=False).dump())
        self.owner: Owner | None = None
        self._lives = 0
        self._owners: list[Owner] = []

    def _plan(self, *, drains: bool) -> Plan:
        return Plan(
            url=self.place.url,
            begin=self.begin,
            rate=self.rate,
            wave=self.times.wave,
            drains=drains,
            clock_ms=self.most_ahead_ms if drains else self.ahead_ms,
        )

    # -- the soak ---------------------------------------------------------------------------

    async def trouble(self) -> None:
        """Let owners work, and trouble them, for the planned time; then stop in peace."""
        until = self.begin + self.times.total
        helpers = [asyncio.create_task(self._sample())]
        if self.place.storms:
            helpers.append(asyncio.create_task(self._storms(until)))
        try:
            await self._trouble_owners(until)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self.place.calm()
        last = await self._in_charge()
        await self._stop(last)
        self._note_end(last)
        self.history.write(event="struck", requests=await self.place.struck())

    async def drain(self) -> None:
        """Let one more owner work off everything that is left."""
        self.history.write(event="drain", life=self._lives + 1)
        owner = await self._start(drains=True)
        if not await owner.ends_within(DRAIN_SECONDS):
            self._problem(f"what was left was not worked off within {DRAIN_SECONDS} s")
            await owner.kill()
        self._note_end(owner)

    async def examine(self, file: str) -> None:
        """Write what is in the store into `file`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benches.soak.examine", self.place.url, self.folder / file),
            cwd=ROOT,
            env={**os.environ, **self.place.direct},
        )
        if await process.wait():
            raise RuntimeError("the store could not be examined; see standard error")

    async def close(self) -> None:
        for owner in self._owners:
            if not owner.ended:
                await owner.kill()
        self.history.close()

    # -- owners -----------------------------------------------------------------------------

    async def _spawn(self, *, drains: bool = False) -> Owner:
        self._lives += 1
        number = self._lives
        with (self.folder / f"stderr-{number:05}").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benches.soak.owner"),
                *(str(self.folder), str(number), self._plan(drains=drains).dump()),
                cwd=ROOT,
                env={**os.environ, **self.place.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        owner = Owner(process, number)
        self._owners = [*(o for o in self._owners if not o.ended), owner]
        return owner

    async def _opened(self, owner: Owner) -> bool:
        try:
            if await owner.opens():
                return True
        except TimeoutError:
            self._problem(f"owner {owner.number} neither opened the store nor gave up")
            await owner.kill()
        await owner.process.wait()
        self._note_end(owner)
        return False

    async def _start(self, *, drains: bool = False) -> Owner:
        """An owner that has the store open."""
        while True:
            owner = await self._spawn(drains=drains)
            if await self._opened(owner):
                self.owner = owner
                return owner
            await asyncio.sleep(0.5)

    async def _in_charge(self) -> Owner:
        """The present owner, or a new one where it ended."""
        if self.owner is not None and not self.owner.ended:
            return self.owner
        if self.owner is not None:
            self._note_end(self.owner)
        return await self._start()

    def _note_end(self, owner: Owner) -> None:
        code = owner.process.returncode
        self.history.write(event="end", life=owner.number, code=code)
        if code not in (0, -signal.SIGKILL, EXIT_FENCED, EXIT_STORE_LOST):
            self._problem(f"owner {owner.number} crashed with {code}: see its stderr")

    def _problem(self, what: str) -> None:
        self.history.write(event="problem", what=what)

    # -- trouble ----------------------------------------------------------------------------

    async def _trouble_owners(self, until: float) -> None:
        troubles: list[tuple[Callable[[Owner], Awaitable[None]], int]] = [
            (self._kill, 4),
            (self._kill_while_opening, 1),
            (self._fence, 3),
            (self._fence_suspended, 2),
            (self._suspend, 2),
            (self._set_clock, 4),
            (self._stop, 1),
        ]
        actions, weights = zip(*troubles, strict=True)
        await self._in_charge()
        while True:
            seconds = self._some_time(self.times.rest)
            if time.monotonic() + seconds > until:
                break
            await asyncio.sleep(seconds)
            owner = await self._in_charge()
            (action,) = self.random.choices(actions, weights)
            async with self._noted(action.__name__.strip("_").replace("_", " ")):
                await action(owner)
                await self._in_charge()
        await asyncio.sleep(max(0, until - time.monotonic()))

    def _some_time(self, usual: tuple[float, float]) -> float:
        """How long all is left in peace: now and then for long, so that trends show."""
        return self.random.uniform(
            *(self.times.long_rest if self.random.random() < 0.08 else usual)
        )

    @asynccontextmanager
    async def _noted(self, what: str) -> AsyncIterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.history.write(event="trouble", what=what, begin=begin)

    async def _kill(self, owner: Owner) -> None:
        await owner.kill()

    async def _kill_while_opening(self, owner: Owner) -> None:
        await owner.kill()
        successor = await self._spawn()
        await asyncio.sleep(self.random.uniform(0.3, 1.5))
        await successor.kill()

    async def _stop(self, owner: Owner) -> None:
        owner.say("stop")
        if not await owner.ends_within(STOP_SECONDS):
            self._problem(f"owner {owner.number} did not stop within {STOP_SECONDS} s")
            await owner.kill()

    async def _fence(self, owner: Owner) -> None:
        successor = await self._spawn()
        if await self._opened(successor):
            self.owner = successor
            await self._must_notice(owner)

    async def _fence_suspended(self, owner: Owner) -> None:
        """The former owner wakes up when another one has long been at work."""
        owner.signal(signal.SIGSTOP)
        try:
            successor = await self._spawn()
            opened = await self._opened(successor)
            await asyncio.sleep(self.random.uniform(0, 3))
        finally:
            owner.signal(signal.SIGCONT)
        if opened:
            self.owner = successor
            await self._must_notice(owner)

    async def _must_notice(self, owner: Owner) -> None:
        if not await owner.ends_within(NOTICE_SECONDS):
            self._problem(f"owner {owner.number} did not notice that it was fenced")
            await owner.kill()
        self._note_end(owner)

    async def _suspend(self, owner: Owner) -> None:
        owner.signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(0.5, 8) * min(1, self.times.total / 120))
        owner.signal(signal.SIGCONT)

    async def _set_clock(self, owner: Owner) -> None:
        ahead = self.ahead_ms + self.random.choice(CLOCK_STEPS_MS)
        self.ahead_ms = max(-MOST_AHEAD_MS, min(MOST_AHEAD_MS, ahead))
        self.most_ahead_ms = max(self.most_ahead_ms, self.ahead_ms)
        owner.say(f"clock {self.ahead_ms}")

    async def _storms(self, until: float) -> None:
        least, most = self.times.storm
        while True:
            await asyncio.sleep(self._some_time(self.times.storm))
            name = self.random.choice(list(STORMS))
            seconds = self.random.uniform(least, min(most, max(0.0, until - time.monotonic())))
            async with self._noted(f"storm: {name}"):
                await self.place.storm(name)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    await self.place.calm()

    # -- samples ----------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            usage = await self.place.usage()
            owner = self.owner
            if owner is not None and not owner.ended:
                self.history.write(
                    event="sample",
                    objects=usage.objects,
                    bytes=usage.size,
                    rss_mb=owner.rss_mb(),
                    age=round(time.monotonic() - owner.started, 1),
                )
            await asyncio.sleep(self.times.sample)
