"""Caller-owned objects: values too large for an entry, kept beside the large payloads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from taquba._model import validate
from taquba._model.errors import InvalidArgument, ObjectDamaged
from taquba._objects.integrity import READS, SEAL_SIZE, Damaged, aside, seal, unseal
from taquba._objects.object_info import ObjectInfo
from taquba._objects.space import ObjectSpace

_MAX_KEY: Final = 512
_MAX_SEGMENT: Final = 250
"""A name in a folder has at most 255 bytes, and a file that is being written a longer name."""

_SEGMENT: Final = rf"[A-Za-z0-9_.-]{{1,{_MAX_SEGMENT}}}"
_KEY: Final = re.compile(rf"(?!.*(?:^|/)\.{{1,2}}(?:/|$)){_SEGMENT}(?:/{_SEGMENT})*")

_END: Final = "="
"""No key has it, so a key may be the beginning of another one, as a file and as a folder."""


class ReadOnlyObjects:
    """Reads caller-owned objects. Every method raises `StoreError` when the store fails.

    In the store, the content is followed by 32 bytes, against which every read checks it.
    """

    def __init__(self, space: ObjectSpace, store_id: str, check: Callable[[], None]) -> None:
        """Internal: use `Queue.objects` or `QueueReader.objects`."""
        self._space = space
        self._check = check
        self._prefix = f"{store_id}/objects/"

    async def get(self, key: str) -> bytes | None:
        """Return the content of an object, or None if there is none.

        Raises:
            ObjectDamaged: It is not as it was written under this key.
        """
        self._check()
        path = self._path(key) + _END
        why = ""
        for _ in range(READS):
            sealed = await self._space.get(path)
            if sealed is None:
                return None
            try:
                return await aside(unseal, len(sealed), key, sealed)
            except Damaged as damaged:
                why = str(damaged)
        raise ObjectDamaged(key, why)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Return the objects below `prefix`, by default all of them.

        A prefix is whole segments, as in ``"reports/2026"``. The objects are in no particular
        order. An object that is written or removed meanwhile may be missed.
        """
        self._check()
        below = self._prefix.rstrip("/") if prefix == "" else self._path(prefix)
        async for page in self._space.list(below):
            for info in page:
                key = info.key.removeprefix(self._prefix).removesuffix(_END)
                # Whatever else lies there was put there by somebody else.
                if info.key.endswith(_END) and _KEY.fullmatch(key):
                    yield info._replace(key=key, size=max(0, info.size - SEAL_SIZE))

    def _path(self, key: str) -> str:
        if len(validate.text(key, "the key of an object")) > _MAX_KEY or not _KEY.fullmatch(key):
            raise InvalidArgument(
                f"the key of an object must have 1 to {_MAX_KEY} characters: segments of up to "
                f"{_MAX_SEGMENT} of [A-Za-z0-9_.-] joined by '/', none of them '.' or '..'; "
                f"got {key!r}"
            )
        return self._prefix + key


class Objects(ReadOnlyObjects):
    """Caller-owned objects of a store: values of any size, outside of its commits.

    An object is written or removed at once, not with a commit, and even a queue that was fenced a
    moment ago may still do that. So write it before the entry or job that names it, under a key
    that is used only once, and remove it after that.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Write an object, or replace it; durable on return, on a folder unless ``fsync=False``."""
        self._check()
        path, content = self._path(key) + _END, validate.content(data, "an object")
        await self._space.put(path, await aside(seal, len(content), key, content))

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        self._check()
        await self._space.delete([self._path(key) + _END for key in keys])
