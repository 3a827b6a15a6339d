"""Decisions based on an entry: in turns, and not on values that a crash could undo."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from taquba._interface.store import Store
from taquba._memory.locks import KeyLocks
from taquba._model import validate
from taquba._model.validate import KvKey
from taquba._queue import key_values
from taquba._queue.owner import owner_of

T = TypeVar("T")


def locks_of(store: Store) -> KeyLocks:
    """Return the locks that all users of a store share.

    Begin their names with your package's, as in ``("taquba_cron", schedule_name)``.
    """
    return owner_of(store).turns


async def until_durable(store: Store, key: KvKey) -> None:
    """Wait until the value of an entry, or its absence, would survive a crash.

    `Store.kv_get` sees a commit a moment before it is durable. Most often the commit is durable by
    now, and this call costs nothing.
    """
    owner = owner_of(store)
    owner.check()
    await key_values.until_durable(owner, validate.kv_key(key))


async def seen_through(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which continues when the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_ignore)
        raise


def _ignore(task: asyncio.Task[Any]) -> None:
    # Its caller is gone; the loop would report an exception that nobody retrieves.
    if not task.cancelled():
        task.exception()
