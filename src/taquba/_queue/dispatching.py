"""Claiming jobs for a worker loop in another process, as one in this process claims them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final, Protocol

from taquba._interface.claim import lease_of
from taquba._memory.leases import Lease
from taquba._model.errors import TaqubaError
from taquba._queue import claims
from taquba._queue.owner import Owner, QueueState

_MOST_PLACES: Final = 10_000
_AT_ONCE: Final = 256
"""Jobs that are claimed by one commit, so that a message does not become too large."""

_LOOKS_SECONDS: Final = 1.0
"""When the queue is looked at again although nothing woke it."""


class Sends(Protocol):
    """What hands jobs to the other process."""

    @property
    def name(self) -> str | None:
        """The id of the process."""

    @property
    def hangs(self) -> bool:
        """Whether the process does not answer: it is handed nothing."""
        ...

    async def be_known(self) -> None:
        """Let the next owner know of the process, before it is handed anything."""

    async def send(self, number: int, leases: Iterable[Lease]) -> int:
        """Hand jobs to a worker loop; returns how many reached it."""
        ...


class Dispatch:
    """Claims jobs for a worker loop in another process, as many as it has room for.

    Args:
        owner: The owner of the store.
        to: What sends the jobs.
        number: The loop's name between the two processes.
        state: The loop's queue.
        lease_ms: How long each claim is held.
        at_a_time: How many jobs the loop runs at a time.
    """

    def __init__(
        self,
        owner: Owner,
        to: Sends,
        number: int,
        state: QueueState,
        lease_ms: int,
        at_a_time: int,
    ) -> None:
        self.queue = state.name
        self.at_a_time = at_a_time
        self._owner = owner
        self._to = to
        self._number = number
        self._state = state
        self._lease_ms = lease_ms
        self._places = 0
        self._wanted = asyncio.Event()
        self._ended = False
        self._claiming = asyncio.create_task(self._claim(), name=f"taquba-dispatch-{state.name}")
        self._claiming.add_done_callback(self._stopped)

    def free(self, places: int) -> None:
        """The loop has room for more jobs."""
        self._places = max(0, min(self._places + places, _MOST_PLACES))
        self._wanted.set()

    def end(self) -> None:
        """Claim no more jobs."""
        self._ended = True
        self._claiming.cancel()

    def _stopped(self, claiming: asyncio.Task[None]) -> None:
        if claiming.cancelled() and not self._ended:
            # The loop would wait in vain.
            self._owner.forsaken()

    async def _claim(self) -> None:
        self._state.loop_begins()
        try:
            # The error of a store that has failed is told to those that call it.
            with contextlib.suppress(TaqubaError):
                await self._to.be_known()
                while True:
                    await self._claim_some()
        finally:
            self._state.loop_ends()

    async def _claim_some(self) -> None:
        if not self._places or self._to.hangs:
            self._wanted.clear()
            await self._wanted.wait()
            return
        limit = min(self._places, _AT_ONCE)
        found = await claims.claim_ahead(
            self._owner, self._state, limit, self._lease_ms, self._to.name
        )
        if found:
            sent = await self._to.send(self._number, map(lease_of, found))
            self._places -= sent
            if sent < len(found):
                await asyncio.sleep(_LOOKS_SECONDS)
            return
        waiters = self._state.waiters
        ready = waiters.join()
        goes_on = False
        try:
            await asyncio.wait([ready], timeout=_LOOKS_SECONDS)
            self._owner.check()
            goes_on = True
        finally:
            waiters.leave(ready, pass_on=not goes_on)
