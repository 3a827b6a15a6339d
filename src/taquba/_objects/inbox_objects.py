"""The objects of a store's inbox: batches that producers put there for the owner to take.

inbox.json              says that an owner takes what is put here, and in which format
new/{name}              a batch, created once
rejected/{name}/batch   a batch that the owner could not take
rejected/{name}/reason  why

Behind a batch is what it is checked by, under its name, when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Final, Self

from taquba._model.batch import BATCH_FORMAT, MalformedBatch
from taquba._model.codec import UNREADABLE
from taquba._model.errors import InboxNotOpen, IncompatibleStore, StoreError
from taquba._objects.integrity import READS, SEAL_SIZE, Damaged, aside, seal, unseal
from taquba._objects.left_alone import leave_alone
from taquba._objects.location import INBOX, StoreLocation
from taquba._objects.object_info import ObjectInfo
from taquba._objects.space import ObjectSpace

_SIGN: Final = "inbox.json"
_NEW: Final = "new"
_REJECTED: Final = "rejected"
_BATCH: Final = "/batch"
_REASON: Final = "/reason"

_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_NAME: Final = re.compile(rf"(?!.{{200}}){_PART}(?:/{_PART})*")
"""What may be put aside where it is not a batch. Other names are somebody else's, or a trap."""


class InboxObjects:
    """The inbox of the store at a location. Every method raises `StoreError` when it fails."""

    def __init__(self, location: StoreLocation, space: ObjectSpace) -> None:
        self.location = location
        self._space = space

    @classmethod
    async def open(cls, location: StoreLocation, *, fsync: bool) -> Self:
        """Connect to it; sends no request."""
        return cls(location, await ObjectSpace.open(location.beside(INBOX), fsync=fsync))

    async def put_up_sign(self) -> None:
        """Say that an owner takes what is put here."""
        sign = json.dumps({"format": "taquba inbox", "batches": BATCH_FORMAT}).encode()
        if await self._space.get(_SIGN) != sign:
            await self._space.put(_SIGN, sign)

    async def prepare(self) -> None:
        """Make a store's first requests possible: its first owner takes what is put here.

        Raises:
            IncompatibleStore: The owner is of a version that does not know this one's batches.
        """
        try:
            await self.check_sign()
        except InboxNotOpen:
            await self.put_up_sign()

    async def check_sign(self) -> None:
        """Make sure that the owner takes what is going to be put here.

        Raises:
            InboxNotOpen: No owner ever did.
            IncompatibleStore: The owner is of a version that does not know this one's batches.
        """
        known = None
        # A read may come out wrongly, and not what is stored.
        for _ in range(READS):
            known = await self._format()
            if known == BATCH_FORMAT:
                return
        raise IncompatibleStore(
            f"the owner of {self.location.url} takes batches in format {known}, this version "
            f"of taquba makes {BATCH_FORMAT}: let owner and producers run the same version"
        )

    async def _format(self) -> object:
        sign = await self._space.get(_SIGN)
        if sign is None:
            if self.location.bucket is not None:
                # A bucket that does not exist has no sign either, and needs another remedy.
                await self._space.check_place()
            raise InboxNotOpen(self.location.url)
        try:
            return json.loads(sign)["batches"]
        except UNREADABLE:
            return None

    async def put(self, name: str, batch: bytes) -> None:
        """Put a batch there, durably; it may be there already."""
        sealed = await aside(seal, len(batch), name, batch)
        if not await self._space.create(f"{_NEW}/{name}", sealed):
            raise StoreError(
                f"another batch is in the inbox of {self.location.url} under the name {name}; "
                "send the jobs again",
                permanent=True,
            )

    async def batches(self) -> AsyncGenerator[list[ObjectInfo]]:
        """The batches that wait, in pages; their keys are their names."""
        async for page in self._space.list(_NEW, flat=True):
            yield [info for info in _below(_NEW, page) if self._could_be_one(info.key)]

    async def get(self, name: str) -> bytes | None:
        """A batch that waits, or None where it is not found, which may pass.

        Raises:
            MalformedBatch: It is not what was put there under this name.
        """
        sealed = await self._space.get(f"{_NEW}/{name}")
        if sealed is None:
            return None
        try:
            return await aside(unseal, len(sealed), name, sealed)
        except Damaged as damaged:
            raise MalformedBatch(f"it is damaged, or no producer put it there: {damaged}") from None

    async def remove(self, names: Collection[str]) -> None:
        await self._space.delete([f"{_NEW}/{name}" for name in names])

    async def reject(self, name: str, reason: str) -> None:
        """Put a batch aside. May be repeated after it was cut off."""
        await self._space.put(f"{_REJECTED}/{name}{_REASON}", reason.encode(errors="replace"))
        await self._space.move(f"{_NEW}/{name}", f"{_REJECTED}/{name}{_BATCH}")

    async def rejected(self) -> AsyncGenerator[list[ObjectInfo]]:
        """The batches that were put aside, in pages; their keys are their names."""
        async for page in self._space.list(_REJECTED):
            found = [
                info._replace(key=info.key.removesuffix(_BATCH))
                for info in _below(_REJECTED, page)
                if info.key.endswith(_BATCH)
            ]
            yield [info for info in found if _NAME.fullmatch(info.key)]

    async def reason(self, name: str) -> str:
        """Why a batch was put aside."""
        found = await self._space.get(f"{_REJECTED}/{name}{_REASON}")
        return "unknown" if found is None else found.decode(errors="replace")

    def _could_be_one(self, name: str) -> bool:
        if _NAME.fullmatch(name):
            return True
        leave_alone(f"{_NEW}/{name}", self._space.url, "its name cannot be that of a batch")
        return False

    async def remove_unfinished(self, seconds: float) -> None:
        """Remove what a producer that died while it wrote has left in a local folder."""
        await self._space.remove_unfinished(_NEW, seconds)

    async def close(self) -> None:
        await self._space.close()


def _below(folder: str, page: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """What a listing shows below a folder, by names; not the mark that some tools make of it."""
    top = f"{folder}/"
    return [
        info._replace(key=info.key.removeprefix(top), size=max(0, info.size - SEAL_SIZE))
        for info in page
        if info.key.startswith(top)
    ]
