"""Caller-owned objects, for a process that need not own the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from taquba._objects.object_info import ObjectInfo
from taquba._objects.user_objects import Objects


class MemberObjects(Objects):
    """The objects of a store, which are read and written without its owner.

    Args:
        opened: Opens them when they are first used.
    """

    def __init__(self, opened: Callable[[], Awaitable[Objects]]) -> None:
        """Internal: use `Service.objects`."""
        self._opened = opened

    async def get(self, key: str) -> bytes | None:
        return await (await self._opened()).get(key)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in (await self._opened()).list(prefix):
            yield info

    async def put(self, key: str, data: bytes) -> None:
        await (await self._opened()).put(key, data)

    async def delete(self, keys: Iterable[str]) -> None:
        await (await self._opened()).delete(keys)
