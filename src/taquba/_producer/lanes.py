"""Ways for a batch to reach the owner of a store."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from taquba._model.errors import StoreError
from taquba._store.inbox import Inbox

_PATIENCE_SECONDS: Final = 30.0
"""For how long a batch is sent again when the store fails."""

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0


class Lane(Protocol):
    """A way for batches."""

    async def send(self, name: str, batch: bytes) -> None:
        """Send a batch; it is durable on return. Sending the same one again changes nothing.

        Raises:
            StoreError: It may have arrived, or not, where the error is not permanent.
        """

    async def close(self) -> None: ...


class InboxLane:
    """Through the object store: needs no running owner."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def send(self, name: str, batch: bytes) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._inbox.put(name, batch)
                return
            except StoreError as error:
                if error.permanent or asyncio.get_running_loop().time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        await self._inbox.close()
