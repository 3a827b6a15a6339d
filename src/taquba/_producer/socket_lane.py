"""The lane of producers on the machine of the owner."""

from __future__ import annotations

from typing import Final

from taquba._line.client import CallFailed, Disconnected
from taquba._line.frames import TooLarge
from taquba._line.methods import BATCH
from taquba._line.remote_owner import OwnerSocket
from taquba._producer.lanes import Lane

_SECONDS: Final = 5.0
"""After this time a batch goes the other way: an owner with such a slow store answers too late."""


class SocketLane:
    """Through the owner's socket if there is one, and by another lane otherwise.

    A batch that may have arrived goes by the other lane under the same name, by which the owner
    recognises it.
    """

    def __init__(self, owner: OwnerSocket, otherwise: Lane) -> None:
        self._owner = owner
        self._otherwise = otherwise

    async def send(self, name: str, batch: bytes) -> None:
        try:
            await self._owner.call(_SECONDS, BATCH, name, batch)
        except (Disconnected, CallFailed, TooLarge):
            await self._otherwise.send(name, batch)

    async def close(self) -> None:
        await self._owner.close()
        await self._otherwise.close()
