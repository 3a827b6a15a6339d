"""Owners that open their engine again tell the others so, for whom that looks like a new owner.

An owner that opens its engine again looks first whether it still has the store. Somebody may open
the store between that look and the fence that the engine sets, and is fenced by it. The former
owner finds that out and gives way. The newer one must find it out as well, whenever it notices that
it was fenced. So the former one announces each attempt before it makes it, with a small empty
object in the store, and removes it when it has the store as before. When it gives way it says to
whom. Only who was fenced looks for these objects, and removes those that were meant for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from contextlib import aclosing
from typing import Final

from taquba._model.errors import StoreError
from taquba._objects.space import ObjectSpace

FOLDER: Final = "reopening"

_LONGEST: Final = 2.0
"""Seconds after which an attempt that was announced is taken for over: its process may have died.
One that goes on nevertheless is fenced, and finds out that it does not have the store."""

_PAUSE: Final = 0.1
_REMOVING_SECONDS: Final = 0.5


class Repairs:
    """What the owners of one store announce."""

    def __init__(self, objects: ObjectSpace) -> None:
        self._objects = objects
        self._announced: list[str] = []

    async def announce(self, owner: str, attempt: int) -> None:
        """Say that an owner opens its engine again.

        Raises:
            StoreError: That could not be stored.
        """
        key = f"{FOLDER}/{owner}.{attempt}"
        # Whatever the store answers, it may be there.
        self._announced.append(key)
        await self._objects.put(key, b"")

    async def end(self) -> None:
        """Take back what was announced: nobody was fenced whose opening was over."""
        keys, self._announced = self._announced, []
        await self._remove(keys)

    async def give_way(self, newer: str) -> None:
        """Say that the last attempt has fenced another owner, which has the store.

        Raises:
            StoreError: That could not be stored. The other owner still finds the attempt.
        """
        await self._objects.put(f"{self._announced[-1]}.{newer}", b"")
        await self.end()

    async def has_fenced(self, owner: str) -> bool:
        """Whether another owner's attempt may have fenced this owner; returns when it is over.

        What says so is removed: it excuses one fence.

        Raises:
            StoreError: The store cannot be read.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST
        attempts, notes = await self._look(owner)
        going_on = attempts
        while going_on and not notes and loop.time() < until:
            await asyncio.sleep(_PAUSE)
            now, notes = await self._look(owner)
            going_on = attempts & now
        await self._remove(notes or going_on)
        return bool(attempts or notes)

    async def _look(self, owner: str) -> tuple[set[str], set[str]]:
        """The attempts of other owners, and what they say to this owner."""
        attempts: set[str] = set()
        notes: set[str] = set()
        async with aclosing(self._objects.list(FOLDER)) as pages:
            async for page in pages:
                for info in page:
                    former, *rest = info.key.removeprefix(f"{FOLDER}/").split(".")
                    if len(rest) == 1 and former != owner:
                        attempts.add(info.key)
                    elif rest[1:] == [owner]:
                        notes.add(info.key)
        return attempts, notes

    async def _remove(self, keys: Collection[str]) -> None:
        """Remove some; what stays there holds up others for a moment."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_REMOVING_SECONDS):
                await self._objects.delete(keys)
