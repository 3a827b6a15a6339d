"""Whether a store has a living owner, as far as another process can tell."""

from __future__ import annotations

import asyncio
from typing import Final

from taquba._model import keys
from taquba._model.clock import from_ms
from taquba._model.records import OwnerPresence, OwnerSigns
from taquba._store import owner_lock
from taquba._store.location import StoreLocation
from taquba._store.reads import Reads

_LOOK_SECONDS: Final = 0.2


async def detect_owner(reads: Reads, location: StoreLocation, patience_ms: int) -> OwnerSigns:
    """Take the surest sign there is; watch the store only where nothing else tells."""
    closed = await reads.get(keys.CLOSED)
    if closed is not None:
        return OwnerSigns(
            OwnerPresence.absent, f"the last owner closed the store at {_text(int(closed))}"
        )
    if location.folder is not None:
        held = await asyncio.to_thread(owner_lock.is_held, location.folder)
        if held is not None:
            return _SIGNS_OF_LOCK[held]
    before = await _pulse(reads)
    deadline = asyncio.get_running_loop().time() + patience_ms / 1000
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        if await reads.get(keys.CLOSED) is not None:
            return OwnerSigns(OwnerPresence.absent, "the last owner has just closed the store")
        if await _pulse(reads) != before:
            return OwnerSigns(OwnerPresence.present, "the store is being written")
    return OwnerSigns(
        OwnerPresence.unknown,
        f"the store was not closed: its owner is idle or has died; {_last_signs(*before)}",
    )


_SIGNS_OF_LOCK: Final = {
    True: OwnerSigns(OwnerPresence.present, "a process on this machine has the store open"),
    False: OwnerSigns(
        OwnerPresence.absent, "the last owner died: no process on this machine has the store open"
    ),
}


async def _pulse(reads: Reads) -> tuple[bytes | None, int | None]:
    """What moves while an owner works: its heartbeat, and the newest change of a counter."""
    return await reads.get(keys.HEARTBEAT), await reads.newest_write(keys.STATS)


def _last_signs(heartbeat: bytes | None, changed_ms: int | None) -> str:
    beat = "no heartbeat" if heartbeat is None else f"last heartbeat {_text(int(heartbeat))}"
    change = "no job yet" if changed_ms is None else f"last change {_text(changed_ms)}"
    return f"{beat}, {change}"


def _text(ms: int) -> str:
    return f"{from_ms(ms):%Y-%m-%d %H:%M:%S} UTC"
