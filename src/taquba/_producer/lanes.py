"""Ways for a batch to reach the owner of a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol, Self

from taquba._model.errors import StoreError
from taquba._model.records import EnqueueResult
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation
from taquba._objects.places import Complaints
from taquba._objects.wake import WakeHint

_log: Final = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 30.0
"""For how long a batch is sent again when the store fails."""

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0


Results = Sequence[EnqueueResult]


class Lane(Protocol):
    """A way for batches."""

    async def send(self, name: str, batch: bytes) -> Results | None:
        """Send a batch; it is durable on return. Sending the same one again changes nothing.

        Returns:
            What the owner made of each request; None if it has yet to decide, or did so before.

        Raises:
            StoreError: If the error is not permanent, it may or may not have arrived.
        """

    async def close(self) -> None: ...


class InboxLane:
    """Through the object store: needs no running owner."""

    def __init__(self, inbox: InboxObjects, hint: WakeHint) -> None:
        self._inbox = inbox
        self._hint = hint
        self._complaints = Complaints()

    @classmethod
    async def open(cls, location: StoreLocation, *, fsync: bool) -> Self:
        """Connect to the inbox of a store.

        Raises:
            InboxNotOpen: No owner ever opened it.
            IncompatibleStore: The owner cannot read the batches that this version makes.
        """
        inbox = await InboxObjects.open(location, fsync=fsync)
        try:
            await inbox.check_sign()
            return cls(inbox, await WakeHint.open(location))
        except BaseException:
            await inbox.close()
            raise

    async def send(self, name: str, batch: bytes) -> Results | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._inbox.put(name, batch)
                break
            except StoreError as error:
                if error.permanent or loop.time() + pause > deadline:
                    raise
                if self._complaints.due(loop.time()):
                    _log.warning("a batch could not yet be put into the inbox: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._complaints.clear()
        self._hint.send()
        return None

    async def close(self) -> None:
        self._hint.close()
        await self._inbox.close()
