"""Values that steps remember beyond the end of an attempt."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final

import msgpack

from taquba import (
    InvalidArgument,
    InvalidArgumentType,
    ObjectDamaged,
    ReadableStore,
    Store,
    StoreError,
)
from taquba.extending.named import MAX_INLINE, entry_is, new_name, read_named
from taquba_workflow import _values
from taquba_workflow._keys import keys_of

_log: Final = logging.getLogger(__name__)

_INLINE: Final = b"\0"
_OBJECT: Final = b"\1"
_OF_RUN: Final = b"\2"
"""Followed by `_STAMP_SIZE` bytes that say when the run was submitted, and what was packed."""
_STAMP_SIZE: Final = 8


class Values:
    """Values of any size under the keys of a workflow queue's runs.

    The row of a large value names an object, which was written before it under a name that is
    used once: a fenced owner that still writes cannot change what a row refers to.
    """

    def __init__(self, store: Store, queue_name: str) -> None:
        self._store = store
        self._keys = keys_of(queue_name)

    async def pack(self, run_id: str, value: bytes) -> bytes:
        """What to keep in a row for a value; its object is written."""
        if len(value) <= MAX_INLINE:
            return _INLINE + value
        name = new_name(self._store, self._keys.objects(run_id))
        await self._store.objects.put(name, value)
        return _OBJECT + name.encode()

    async def get(self, key: str) -> bytes | None:
        """A value; a row that cannot be read counts as none.

        Raises:
            ObjectDamaged: The object of a large one is damaged.
        """
        try:
            return await self.read(key)
        except StoreError as error:
            if isinstance(error, ObjectDamaged) or not error.permanent:
                raise
            _log.warning("what is kept under %r counts as nothing: %s", key, error)
            return None

    async def read(self, key: str) -> bytes | None:
        """A value; raises a permanent `StoreError` for one that is damaged."""
        row = await self._store.kv_get(key)
        if row is None:
            return None
        packed = row[1 + _STAMP_SIZE :] if row.startswith(_OF_RUN) else row
        if not packed.startswith((_INLINE, _OBJECT)):
            raise StoreError(f"the entry {key!r} cannot be read: delete it", permanent=True)

        return await unpack(self._store, packed, entry_is(self._store, key, row))

    async def unpack(
        self, packed: bytes, is_kept: Callable[[], Awaitable[bool]] | None = None
    ) -> bytes | None:
        """What was packed; see `unpack`. Without `is_kept` nothing removes it meanwhile."""
        return await unpack(self._store, packed, is_kept or _always)

    async def put(self, run_id: str, submitted_at: int, key: str, value: bytes) -> None:
        """Keep a value of a run; durable on return.

        The row says when its run was submitted: a slow process that removes the rows of an earlier
        run with this id does not take it for one of those.
        """
        stamp = submitted_at.to_bytes(_STAMP_SIZE, "big")
        await self._store.kv_put(key, _OF_RUN + stamp + await self.pack(run_id, value))


async def _always() -> bool:
    return True


async def unpack(
    store: ReadableStore, packed: bytes, is_kept: Callable[[], Awaitable[bool]]
) -> bytes | None:
    """A value from what its row keeps.

    None when retention has removed its object meanwhile, and for a row that cannot be read.

    Args:
        store: Where the row is.
        packed: What the row keeps.
        is_kept: Whether it still does.

    Raises:
        StoreError: Its object is not found, though the row still names it.
    """
    if packed.startswith(_INLINE):
        return packed[len(_INLINE) :]
    try:
        if not packed.startswith(_OBJECT):
            raise ValueError(f"it begins with {packed[:1]!r}")
        return await read_named(store, packed[len(_OBJECT) :].decode(), is_kept)
    except (ValueError, InvalidArgument) as error:
        _log.warning("a value that a run has kept cannot be read: %s", error)
        return None


class Memo:
    """The memo of a step: values that outlive the attempt that put them.

    Each value is durable when `put` returns, and belongs to one step of one run. They are removed
    when retention removes the run. Small values share the commits of other changes; those above 64
    KiB are objects.
    """

    __slots__ = ("_prefix", "_run_id", "_submitted_at", "_values")

    def __init__(self, values: Values, prefix: str, run_id: str, submitted_at: int) -> None:
        """Internal: a `Step` has its memo."""
        self._values = values
        self._prefix = prefix
        self._run_id = run_id
        self._submitted_at = submitted_at

    async def get(self, key: str) -> bytes | None:
        """Return the value put under `key`, in this attempt or an earlier one, or None.

        A row that cannot be read counts as missing.

        Raises:
            ObjectDamaged: It is a large value, and its object is damaged.
        """
        return await self._values.get(self._named(key))

    async def read(self, key: str) -> bytes | None:
        """Like `get`, for what must not be taken for absent because it is damaged.

        Raises:
            StoreError: What was put under `key` is damaged; `permanent` is set.
        """
        return await self._values.read(self._named(key))

    async def put(self, key: str, value: bytes) -> None:
        """Remember a value under `key`, 1 to 1024 UTF-8 bytes; durable on return."""
        _values.content(value, "the value")
        await self._put(self._named(key), value)

    async def content_get(self, input: object) -> bytes | None:
        """Return the value put for an equal `input`, or None."""
        return await self._values.get(self._by_content(input))

    async def content_put(self, input: object, value: bytes) -> None:
        """Remember a value for `input`, any value that MessagePack can hold; durable on return.

        Inputs are equal if their MessagePack forms are (by SHA-256), so dicts whose keys are in a
        different order are not equal.
        """
        _values.content(value, "the value")
        await self._put(self._by_content(input), value)

    async def _put(self, key: str, value: bytes) -> None:
        await self._values.put(self._run_id, self._submitted_at, key, value)

    def _named(self, key: str) -> str:
        _values.name(key, "a memo key")
        return f"{self._prefix}k/{key}"

    def _by_content(self, input: object) -> str:
        try:
            packed = msgpack.packb(input)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgumentType(
                f"a memo's input must consist of values that MessagePack can hold ({error}): "
                f"got {type(input).__name__}"
            ) from None
        return f"{self._prefix}c/{sha256(packed).hexdigest()}"
