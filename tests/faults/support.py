"""A store behind a faulty network, and owners that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from taquba import Queue, QueueReader, StoreError
from taquba.testing import MockClock
from tests.crash.audit import Dump, audit
from tests.crash.children import Ledger, read_reports
from tests.crash.worker_child import CONFIG, QUEUES, Child
from tests.faults.patient import PatientQueue
from tests.payloads.support import payload_objects, referred
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import AzureServer, S3Server

_LARGE = 300
"""Bytes above which a payload is an object of its own; some of a `Child`'s are."""


class FaultyStore:
    """A store that owners reach through a proxy; whoever examines it does so directly."""

    def __init__(self, server: S3Server | AzureServer, proxy: FaultyProxy) -> None:
        self.url = f"{server.root}/{uuid.uuid4().hex}"
        self.proxy = proxy
        self._server = server

    @contextlib.contextmanager
    def _reached_at(self, endpoint: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._server.environment(endpoint).items():
                patch.setenv(name, value)
            yield

    @staticmethod
    async def _reach_objects(queue: Queue) -> None:
        """Read the environment for the objects' sake as well: they connect at their first use."""
        with contextlib.suppress(StoreError):
            await queue.objects.get("none")

    async def open(self) -> Queue:
        """An owner behind the proxy."""
        with self._reached_at(self.proxy.endpoint):
            queue = await Queue.open(
                self.url, default_config=CONFIG, payload_offload_threshold=_LARGE, take_over=True
            )
            await self._reach_objects(queue)
        return queue

    async def open_reader(self) -> QueueReader:
        """A reader behind the proxy."""
        with self._reached_at(self.proxy.endpoint):
            return await QueueReader.open(self.url, poll_interval=0.1)

    @contextlib.asynccontextmanager
    async def next_owner(self) -> AsyncIterator[Queue]:
        """An owner that no fault strikes, whose clock stands still while rows are read."""
        clock = MockClock(datetime.now(UTC))
        with self._reached_at(self._server.endpoint):
            queue = await Queue.open(self.url, default_config=CONFIG, clock=clock, take_over=True)
            await self._reach_objects(queue)
        async with queue:
            await clock.advance(0)
            yield queue

    async def examine(self, *works: Work) -> Dump:
        """As the next owner: every promise that was made is kept, and nothing came twice."""
        ledger = Ledger()
        for work in works:
            ledger.read(work.reports)
        async with self.next_owner() as queue:
            state = await audit(queue)
            ledger.check(state)
            there = await payload_objects(queue)
            for name in QUEUES:
                assert await referred(queue, name) <= there, "a payload is gone before its job"
        return state


@dataclass
class Work:
    """Everything that a `Child` does, on an owner in this process."""

    queue: PatientQueue
    log: Path
    task: asyncio.Task[None]

    @property
    def reports(self) -> list[list[str]]:
        """What was acknowledged so far."""
        return read_reports(self.log)

    async def goes_on(self, count: int = 50, seconds: float = 30) -> None:
        """Wait until that many more calls are acknowledged."""
        goal = len(self.reports) + count
        async with asyncio.timeout(seconds):
            while len(self.reports) < goal:
                assert not self.task.done(), self.task
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def working(queue: Queue, log: Path, seed: int) -> AsyncIterator[Work]:
    """Work of every kind on a queue, until the block ends."""
    patient = PatientQueue(queue)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    child = Child(cast("Queue", patient), file, seed)
    task = asyncio.create_task(child.run())
    try:
        yield Work(patient, log, task)
    finally:
        task.cancel()
        await asyncio.wait([task])
        os.close(file)


async def settled(queue: Queue) -> Dump:
    """Once nothing moves by itself any more, memory agrees with the store."""
    owner = queue._owner
    before = None
    async with asyncio.timeout(30):
        # What a cancelled call has begun goes on for a moment, and so do retries and uploads.
        while len(owner.scheduled) or owner.committer.busy or before != owner.counters:
            before = dict(owner.counters)
            await asyncio.sleep(0.5)
    return await audit(queue)
