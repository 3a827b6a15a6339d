"""Decisions based on an entry: in turns within this process, and seen through."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from taquba._interface.store import Store
from taquba._memory.locks import KeyLocks

T = TypeVar("T")

_turns: Final[WeakKeyDictionary[Store, KeyLocks]] = WeakKeyDictionary()


def locks_of(store: Store) -> KeyLocks:
    """Return the locks that all users of a handle share; other processes have their own.

    They keep code of one process from disturbing itself. What others decide at the same time is
    noticed by `kv_expected`. Begin their names with your package's, as in
    ``("taquba_cron", schedule_name)``.
    """
    return _turns.setdefault(store, KeyLocks())


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
