"""Whether a store has a living owner, as seen by another process."""

from __future__ import annotations

import asyncio
from typing import Final

from taquba._engine.read_only import looking_once
from taquba._engine.reads import Reads
from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._model import keys
from taquba._model.clock import from_ms
from taquba._model.codec import Closing, decode_closing
from taquba._model.records import OwnerPresence, OwnerSigns
from taquba._objects import owner_lock
from taquba._objects.location import StoreLocation

_LOOK_SECONDS: Final = 0.2


async def detect_owner(reads: Reads, location: StoreLocation, patience_ms: int) -> OwnerSigns:
    """Use the surest sign that exists; watch the store only if there is no other sign.

    The lock of a folder comes first, and the mark of a clean close after it: an owner takes the
    one before it removes the other. The mark counts as it is now: `reads` may show the store as
    it was before its owner opened it.
    """
    held = await _lock_held(location)
    closed = await closed_at(location)
    if held is False and closed is None:
        # Somebody may have opened it between the two looks.
        held = await _lock_held(location)
    if held is None:
        begun = closed is not None and await _opened_since(location, closed)
        if closed is not None and not begun:
            return _closed(closed)
        return await _watch(reads, location, patience_ms, begun=begun)
    if held is False:
        return _DIED if closed is None else _closed(closed)
    if closed is not None and not await _being_opened(location):
        # Either an owner has just opened it, or the one that has the lock was fenced and does not
        # know it yet, and the one that fenced it has closed the store.
        closed = await closed_at(location)
        if closed is not None:
            return _closed(closed)
    assert location.folder is not None
    holder = await asyncio.to_thread(owner_lock.holder_of, location.folder)
    return OwnerSigns(
        OwnerPresence.PRESENT,
        f"a process on this machine has the store open: {holder.text()}",
    )


async def _watch(
    reads: Reads, location: StoreLocation, patience_ms: int, *, begun: bool
) -> OwnerSigns:
    """Watch whether the store changes.

    `begun` says that an opening has begun and not ended, so that the store still says that it was
    closed.
    """
    deadline = asyncio.get_running_loop().time() + patience_ms / 1000
    before = await _pulse(reads)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        if begun or await reads.get(keys.CLOSED) is not None:
            closed = await closed_at(location)
            if begun and closed is None:
                return OwnerSigns(OwnerPresence.PRESENT, "the store has just been opened")
            if closed is not None and not await _opened_since(location, closed):
                return OwnerSigns(OwnerPresence.ABSENT, "the last owner has just closed the store")
        if await _pulse(reads) != before:
            return OwnerSigns(OwnerPresence.PRESENT, "the store is being written")
    if begun:
        return OwnerSigns(
            OwnerPresence.UNKNOWN,
            "the store was closed; then a process began to open it, which goes on or has died",
        )
    return OwnerSigns(
        OwnerPresence.UNKNOWN,
        f"the store was not closed: its owner is idle or has died; {_last_signs(*before)}",
    )


async def _lock_held(location: StoreLocation) -> bool | None:
    """Whether a process on this machine has the store open; None if that is unknown."""
    if location.folder is None:
        return None
    return await asyncio.to_thread(owner_lock.is_held, location.folder)


async def _being_opened(location: StoreLocation) -> bool:
    if location.folder is None:
        return False
    return await asyncio.to_thread(owner_lock.is_opening, location.folder) is True


async def closed_at(location: StoreLocation) -> Closing | None:
    """How the last owner closed the store; None if it did not, or another one came since then."""
    async with looking_once(location) as newest:
        closed = await newest.get(keys.CLOSED)
    return None if closed is None else decode_closing(closed)


async def _opened_since(location: StoreLocation, closed: Closing) -> bool:
    """Whether a process has begun to open the store since then, and has not yet written to it."""
    if location.in_memory:
        return False
    log = await WriteAheadLog.connect(location)
    try:
        manifest = await log.manifest()
    finally:
        await log.close()
    return manifest is not None and manifest.writer_epoch > closed.openings


_DIED: Final = OwnerSigns(
    OwnerPresence.ABSENT, "the last owner died: no process on this machine has the store open"
)


def _closed(closed: Closing) -> OwnerSigns:
    return OwnerSigns(
        OwnerPresence.ABSENT, f"the last owner closed the store at {_text(closed.at)}"
    )


async def _pulse(reads: Reads) -> tuple[bytes | None, int | None]:
    """The signs of a working owner: its heartbeat, and the newest change of a counter."""
    return await reads.get(keys.HEARTBEAT), await reads.newest_write(keys.STATS)


def _last_signs(heartbeat: bytes | None, changed_ms: int | None) -> str:
    beat = "no heartbeat" if heartbeat is None else f"last heartbeat {_text(int(heartbeat))}"
    change = "no job yet" if changed_ms is None else f"last change {_text(changed_ms)}"
    return f"{beat}, {change}"


def _text(ms: int) -> str:
    return f"{from_ms(ms):%Y-%m-%d %H:%M:%S} UTC"
