"""Worker loops that end together, when nothing is left that they may run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from taquba._model.own_tasks import was_cancelled
from taquba._worker.source import JobSource


class Loop(Protocol):
    """A worker loop, as seen by its group."""

    source: JobSource

    def end(self, failure: BaseException | None = None) -> None:
        """Claim nothing more."""


class UntilEmpty:
    """Ends a group of worker loops when none of them has anything left to do.

    A loop rests while it runs nothing and finds nothing to claim. A handler of one loop may enqueue
    for another, so they end only when all of them rest. Before that, one look brings in the jobs
    that are not pending yet and may run: those in the inbox, and scheduled ones that are due. The
    loops go on claiming meanwhile, and a job that one of them starts makes another look necessary.

    Args:
        loops: How many loops the group has.
    """

    def __init__(self, loops: int) -> None:
        self._loops = loops
        self._resting: set[Loop] = set()
        self._look: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        """The error of the last look."""
        self._up_to_date = False
        """Whether no job was started since the last look began."""
        self._closed = False

    def rests(self, loop: Loop) -> None:
        """A loop runs nothing, and waits for jobs."""
        self._resting.add(loop)
        self._consider()

    def stirs(self, loop: Loop) -> None:
        """A loop no longer rests: it tries to claim, or ends."""
        self._resting.discard(loop)

    def starts_jobs(self) -> None:
        """A loop has claimed jobs. Their handlers may enqueue others, also through the inbox."""
        self._up_to_date = False

    def close(self) -> None:
        """A loop has ended, and so will the others: no look is needed any longer."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()

    def _consider(self) -> None:
        """End the loops, or look whether they can end, if all of them rest."""
        resting = self._resting
        if self._closed or len(resting) < self._loops:
            return
        # What is pending and was not claimed must wait for a suspect, and is claimed later.
        if not all(loop.source.empty for loop in resting):
            return
        if self._look is not None:
            return
        if self._up_to_date:
            for loop in resting:
                loop.end(self._failure)
            return
        self._up_to_date = True
        sources = [loop.source for loop in resting]
        self._look = asyncio.create_task(_bring_in(sources), name="taquba-last-look")
        self._look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Task[None]) -> None:
        self._look = None
        self._failure = was_cancelled(look) if look.cancelled() else look.exception()
        self._consider()


async def _bring_in(sources: Iterable[JobSource]) -> None:
    for source in sources:
        await source.bring_in()
