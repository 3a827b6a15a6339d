"""Handlers that run in child processes of a service, and tell of it by files in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from taquba import JobRecord, LeaseHandle
from taquba._service.child import Orders

PATIENCE = 60
"""Seconds that nothing here takes."""


def until_exists(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(str(path))
        time.sleep(0.01)


def say(path: Path, text: object) -> None:
    """Write a file, which is whole as soon as it is there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(str(text))
    part.rename(path)


@dataclass
class Meeting:
    """Each job waits until so many run at once."""

    folder: Path
    size: int

    def process(self, job: JobRecord, lease: LeaseHandle) -> None:
        say(self.folder / f"{job.id}.here", os.getpid())
        deadline = time.monotonic() + PATIENCE
        while len(list(self.folder.glob("*.here"))) < self.size:
            if time.monotonic() > deadline:
                raise TimeoutError("alone")
            time.sleep(0.01)


@dataclass
class Holding:
    """Each run says in which process it is, whose end frees a lock, and waits for a word."""

    folder: Path

    def process(self, job: JobRecord, lease: LeaseHandle) -> None:
        lock = os.open(self.folder / f"{os.getpid()}.lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = len(list(self.folder.glob(f"{job.id}.run*")))
        text = f"{os.getpid()} {'suspect' if job.suspect else 'trusted'}"
        say(self.folder / f"{job.id}.run{runs}", text)
        until_exists(self.folder / f"{job.id}.go")


def never_ends(job: JobRecord, lease: LeaseHandle) -> None:
    """A thread that cannot be stopped, for jobs that say so."""
    if job.payload == b"never":
        while True:
            time.sleep(1)


async def never_ends_async(job: JobRecord, lease: LeaseHandle) -> None:
    """Ignores every cancellation, or blocks the event loop, as its payload says."""
    while job.payload == b"ignores":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    if job.payload == b"blocks":
        # It takes for ever, and no other thread of Python runs meanwhile.
        re.match(r"(a|aa)+$", "a" * 200 + "b")
    if job.payload == b"obeys":
        await asyncio.sleep(3600)


async def dies(orders: Orders) -> None:
    """A program that fails at once."""
    sys.exit(3)
