"""The lane of producers on the machine of the owner."""

from __future__ import annotations

from typing import Final, cast

from taquba._line.client import CallFailed, Disconnected
from taquba._line.frames import TooLarge
from taquba._line.methods import BATCH
from taquba._line.remote_owner import OwnerSocket
from taquba._model.records import EnqueueResult
from taquba._producer.lanes import Lane, Results

PATIENCE_SECONDS: Final = 5.0
"""After this time a batch goes the other way: an owner with such a slow store answers too late."""


class SocketLane:
    """Through the owner's socket if there is one, and by another lane otherwise.

    A batch that may have arrived goes by the other lane under the same name, by which the owner
    recognises it.

    Args:
        owner: The owner's socket.
        otherwise: The other lane.
        patience: After how many seconds a batch goes the other way.
    """

    def __init__(self, owner: OwnerSocket, otherwise: Lane, patience: float) -> None:
        self._owner = owner
        self._otherwise = otherwise
        self._patience = patience

    async def send(self, name: str, batch: bytes) -> Results | None:
        try:
            results = await self._owner.call(self._patience, BATCH, name, batch)
        except (Disconnected, CallFailed, TooLarge):
            return await self._otherwise.send(name, batch)
        if results is None:
            return None
        return [EnqueueResult(*result) for result in cast("list[tuple[str, bool]]", results)]

    async def close(self) -> None:
        await self._owner.close()
        await self._otherwise.close()
