"""Runs on a real store whose process can be ended, to compare with a plain interpreter."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from taquba import Queue, QueueConfig, TaqubaError
from taquba.testing import MockClock
from taquba_workflow import WorkflowRuntime
from taquba_workflow._records import Buffered, decode_signal
from tests.workflow.audit import SIGNALS
from tests.workflow.crashing import after_writes, die_at
from tests.workflow.support import entries, fresh_url

EventT = TypeVar("EventT")
PictureT = TypeVar("PictureT")


class RealRuns(ABC, Generic[EventT, PictureT]):
    """An owner and its runtime, where events happen one after the other."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._url = fresh_url()
        self._queues: list[Queue] = []
        self.clock = MockClock()
        self.start = self.clock.now()

    @abstractmethod
    def runtime_on(self, queue: Queue) -> WorkflowRuntime: ...

    @abstractmethod
    async def begin(self, event: EventT, payload: str) -> None:
        """Do what an event says; what follows from it may still be under way."""

    @abstractmethod
    async def picture(self) -> PictureT:
        """What there is to see, in the words of the plain interpreter."""

    async def open(self) -> None:
        # Opened before the one that crashed is closed, so that nothing of that lands any more.
        self.queue = await Queue.open(
            self._url, clock=self.clock, default_config=self._config, take_over=True
        )
        self._queues.append(self.queue)
        self.runtime = self.runtime_on(self.queue)
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self.runtime.run(self._stop))
        await self.clock.advance(0)

    async def close(self) -> None:
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=True)
        for queue in reversed(self._queues):
            await queue.close()

    async def perform(self, event: EventT, payload: str) -> None:
        await self.begin(event, payload)
        await self.clock.advance(0)

    async def perform_through_a_crash(
        self, event: EventT, payload: str, writes: int, before: PictureT, after: PictureT
    ) -> None:
        """End the process after so many writes; who got no answer asks the next one again."""
        die_at(self.queue, after_writes(writes))
        with contextlib.suppress(TaqubaError):
            await self.perform(event, payload)
        await self._restart()
        # Nothing of it had happened.
        if await self.picture() == before != after:
            await self.perform(event, payload)

    async def _restart(self) -> None:
        old = self._running
        await self.open()
        # One that has not noticed yet would take its time.
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)

    async def buffered_signals(self) -> dict[str, str]:
        """What was sent and not yet taken, by its key."""
        rows = await entries(self.queue, SIGNALS)
        return {
            key.removeprefix(SIGNALS): signal.payload.decode()
            for key, row in rows.items()
            if isinstance(signal := decode_signal(row), Buffered)
        }
