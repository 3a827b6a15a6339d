"""Decisions about one run or one signal take turns, and are seen through to their commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class KeyLocks:
    """One lock per key, there while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def acquire(self, *keys: str) -> Callable[[], None]:
        """Take the locks of all `keys`, in one global order; returns what gives them back, once."""
        taken: list[asyncio.Lock] = []

        def release() -> None:
            while taken:
                taken.pop().release()

        try:
            for key in sorted(set(keys)):
                lock = self._locks.get(key)
                if lock is None:
                    lock = self._locks[key] = asyncio.Lock()
                await lock.acquire()
                taken.append(lock)
        except BaseException:
            release()
            raise
        return release


async def seen_through(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which goes on when the caller is cancelled.

    A lock must not be given back while what was decided under it is on its way to the store.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_ignore)
        raise


def _ignore(task: asyncio.Task[Any]) -> None:
    # Its caller is gone; an exception that nobody asks for would be reported by the loop.
    if not task.cancelled():
        task.exception()
