"""Submissions under one idempotency key take turns, and are seen through to their commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from taquba import Queue

T = TypeVar("T")

_LOCKS: Final[WeakKeyDictionary[Queue, WeakValueDictionary[str, asyncio.Lock]]] = (
    WeakKeyDictionary()
)
"""One lock per key that somebody holds or waits for, whichever runner of the queue it is."""


@asynccontextmanager
async def turn(queue: Queue, key: str) -> AsyncGenerator[None]:
    """Hold the lock of `key`."""
    locks = _LOCKS.setdefault(queue, WeakValueDictionary())
    lock = locks.get(key)
    if lock is None:
        lock = locks[key] = asyncio.Lock()
    async with lock:
        yield


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
