"""Values too large for an entry: objects that an entry names, and that were written before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from taquba._interface.store import ReadableStore, Store
from taquba._model.errors import StoreError

__all__ = ["MAX_INLINE", "NamedObjectMissing", "entry_is", "new_name", "read_named"]

MAX_INLINE: Final = 64 * 1024
"""Largest value, in bytes, to keep in an entry, which shares its commit with others."""

_PAUSES: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds between reads of an object that is named and not found."""


class NamedObjectMissing(StoreError):
    """An object that an entry names is not found."""


def new_name(store: Store, folder: str) -> str:
    """Return a new key for an object, which no other object has or had.

    So an owner that has been fenced cannot overwrite an object that an entry names.
    """
    return f"{folder}/{store.next_job_id()}"


def entry_is(source: ReadableStore, key: str, value: bytes) -> Callable[[], Awaitable[bool]]:
    """For `read_named`: returns whether an entry still names the object."""

    async def is_named() -> bool:
        return await source.kv_get(key) == value

    return is_named


async def read_named(
    source: ReadableStore, key: str, is_named: Callable[[], Awaitable[bool]]
) -> bytes | None:
    """Return the content of a caller-owned object; None once no entry names it any longer.

    A bucket may not find an object for a moment, so the object is looked for again for some seconds
    while an entry names it.

    Args:
        source: The handle on the store.
        key: Its key.
        is_named: Whether the entry that named it still does.

    Raises:
        NamedObjectMissing: It is named, and not found.
        StoreError: The store fails.
    """
    for pause in (0.0, *_PAUSES):
        await asyncio.sleep(pause)
        found = await source.objects.get(key)
        if found is not None:
            return found
        if not await is_named():
            return None
    raise NamedObjectMissing(
        f"the object {key!r} is not found although an entry names it: try again later, or "
        "restore it"
    )
