"""Entries that a process holds for as long as it lives: what it does alone, of all processes.

The holder rewrites its entry every so often. Another process that finds the entry held watches it:
if it stays as it is for too long, its holder is dead, and whoever wants it takes it. All writes
compare, so a holder that comes back late finds that it has lost. Time is real time here: processes
are alive or dead in it, and a virtual clock would never come to rest.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import msgpack

from taquba import KvKey, Queue, Store, StoreError, TaqubaError
from taquba.extending import UNREADABLE

BEAT_SECONDS: Final = 1.0
"""How often a holder says that it lives."""

DEAD_SECONDS: Final = 5.0
"""How long an entry stays as it is before its holder counts as dead."""

_LOOK_SECONDS: Final = 0.1
_SLOW_SECONDS: Final = 0.5
"""A look that takes longer says nothing: beats may wait for an owner just as long."""

_handles: Final[WeakKeyDictionary[Store, bytes]] = WeakKeyDictionary()
# A process that forks may have made its handles before, as a web server does that loads first.
os.register_at_fork(after_in_child=_handles.clear)


def handle_id(store: Store) -> bytes:
    """A name for a handle on a store in this process, which no other handle has.

    Ask for it when it is needed: the process may fork until then.
    """
    return _handles.setdefault(store, secrets.token_bytes(8))


class HoldLost(StoreError):
    """Another process has taken what this one held, for which it counted as dead."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"another process has taken over {key!r}: this one did not answer for "
            f"{DEAD_SECONDS:g} seconds",
            permanent=True,
        )
        self.key = key


class Stamp(NamedTuple):
    """An entry that is held."""

    holder: bytes
    owns: bool
    """Whether its holder is the owner of the store itself, not a member of a service."""
    beat: int
    content: bytes

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb((_MARK, *self))
        return packed

    @classmethod
    def decode(cls, packed: bytes) -> Stamp | None:
        """What is stored; None if it is something else."""
        try:
            mark, *fields = msgpack.unpackb(packed)
            stamp = cls(*fields)
        except UNREADABLE:
            return None
        is_stamp = mark == _MARK and isinstance(stamp.holder, bytes)
        return stamp if is_stamp and isinstance(stamp.content, bytes) else None


_MARK: Final = "held"


async def swap(store: Store, key: KvKey, expected: bytes | None, value: bytes) -> bool:
    """`Store.kv_compare_put` whose answer may be lost with an owner; no two values are equal."""
    try:
        if await store.kv_compare_put(key, expected, value):
            return True
    except StoreError as error:
        if error.permanent:
            raise
        found = await store.kv_get(key)
        if found == expected:
            raise
        return found == value
    return False


async def held_by_another(store: Store, key: str, row: bytes) -> bool:
    """Watch an entry until it changes, then True, or until its holder counts as dead."""
    stamp = Stamp.decode(row)
    if stamp is None:
        return False
    if stamp.owns and isinstance(store, Queue) and stamp.holder != handle_id(store):
        # A store has one owner at a time, and that is this process now.
        return False
    now = asyncio.get_running_loop().time
    unchanged_since = asked_at = now()
    while True:
        found = await store.kv_get(key)
        if found != row:
            return True
        if now() - asked_at > _SLOW_SECONDS:
            unchanged_since = now()
        if now() - unchanged_since >= DEAD_SECONDS:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
        asked_at = now()


class Hold:
    """An entry that this process holds.

    Args:
        store: An open handle on the store.
        key: The entry.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._stamp = Stamp(b"", False, 0, b"")
        self._row: bytes | None = None
        self._tried: bytes | None = None
        """What may have been written, by a call whose answer was lost."""
        self._renewed_at = 0.0
        self._turn = asyncio.Lock()

    async def take(self, before: bytes | None, content: bytes) -> bool:
        """Take the entry, if it is still as it was read."""
        # The number tells one holding of this handle from another.
        first = secrets.randbits(48)
        owns = isinstance(self._store, Queue)
        stamp = Stamp(handle_id(self._store), owns, first, content)
        return await self._write(before, stamp)

    async def keep(self) -> None:
        """Say that the holder lives, until cancelled; raises `HoldLost`."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self.renew()
            except TaqubaError as error:
                # Such as a service that looks for its owner.
                if error.permanent:
                    raise

    async def confirm(self) -> None:
        """Return once nobody can have taken the entry for some more time; raises `HoldLost`."""
        if asyncio.get_running_loop().time() - self._renewed_at > DEAD_SECONDS / 2:
            await self.renew()

    async def renew(self, content: bytes | None = None) -> None:
        """Say that the holder lives, perhaps with another content; raises `HoldLost`."""
        async with self._turn:
            stamp = self._stamp._replace(beat=self._stamp.beat + 1)
            if content is not None:
                stamp = stamp._replace(content=content)
            before = self._row
            if self._tried is not None and await self._store.kv_get(self._key) == self._tried:
                before = self._tried
            if not await self._write(before, stamp):
                raise HoldLost(self._key)

    async def replace(self, value: bytes) -> bool:
        """Let go, and leave a value in the entry; False if it was lost."""
        async with self._turn:
            return await swap(self._store, self._key, self._row, value)

    async def let_go(self) -> None:
        """Remove the entry, if it is still held."""
        async with self._turn:
            if self._row is not None:
                await self._store.kv_compare_delete(self._key, self._row)

    async def _write(self, before: bytes | None, stamp: Stamp) -> bool:
        at = asyncio.get_running_loop().time()
        self._tried = row = stamp.encode()
        if not await swap(self._store, self._key, before, row):
            return False
        self._stamp, self._row, self._renewed_at = stamp, row, at
        self._tried = None
        return True
