"""What phases came to, by their content, for all runs of a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgpack

from taquba import Duration, InvalidArgument, KvEntry, ObjectDamaged, Queue
from taquba.extending import UNREADABLE, locks_of
from taquba.extending.checks import duration_ms
from taquba.extending.named import NamedObjectMissing, read_named
from taquba.extending.typed import Codec, Undecodable
from taquba_bulk import _values
from taquba_bulk._phases import Kept, in_phase

_log: Final = logging.getLogger(__name__)

_MAX_INLINE: Final = 64 * 1024
"""Largest value, in bytes, that is kept as an entry; a larger one is an object."""

_BASE: Final = "taquba_bulk_cache"
_EXPIRIES: Final = f"{_BASE}/expiry/"
_MOST_DIGITS: Final = 14
"""Enough for ms since the epoch until the year 5138, so that keys sort by time."""
_PAGE: Final = 100


class CacheKey(NamedTuple):
    """An entry of a cache.

    Attributes:
        name: The cache.
        digest: Hash of what the value depends on.
        ttl_ms: How long an entry that is made now may be used; None for ever.
    """

    name: str
    digest: str
    ttl_ms: int | None


class _Row(NamedTuple):
    expires_ms: int | None
    value: bytes | str
    """The value, or the name of its object."""

    @classmethod
    def decode(cls, packed: bytes) -> _Row:
        """A row; raises one of `UNREADABLE` where it is damaged."""
        expires_ms, value = msgpack.unpackb(packed)
        return cls(None if expires_ms is None else int(expires_ms), value)


class _Expiry(NamedTuple):
    """The key of an entry that says when one of a cache expires; its value names the object."""

    at_ms: int
    name: str
    digest: str

    def key(self) -> str:
        return f"{_EXPIRIES}{self.at_ms:0{_MOST_DIGITS}d}/{self.name}/{self.digest}"

    @classmethod
    def read(cls, key: str) -> _Expiry | None:
        """What a key says; None, with a warning, for one of somebody else."""
        try:
            at_ms, name, digest = key.removeprefix(_EXPIRIES).split("/")
            return cls(int(at_ms), name, digest)
        except ValueError:
            _log.warning("the entry %r is none of taquba_bulk's: delete it, or rename it", key)
            return None


def cache_key(name: str, content: str, ttl: Duration | None) -> CacheKey:
    """The entry for a text that says all that its value depends on."""
    _values.name(name, "the name of a cache")
    digest = sha256(content.encode(errors="surrogatepass")).hexdigest()
    return CacheKey(name, digest, None if ttl is None else duration_ms(ttl, "ttl", minimum=1))


class Cache:
    """The caches of a store.

    Args:
        queue: The open queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def through(
        self, key: CacheKey, make: Callable[[], Awaitable[Kept]], codec: Codec[Any]
    ) -> Kept:
        """What is kept, free of costs; or what `make` makes, which is kept then.

        An entry that cannot be read, or not as `codec` reads, is none.

        Who asks for the same while it is being made waits for it.
        """
        if in_phase():
            # Held within another phase the lock might be waited for in a circle.
            return await self._through(key, make, codec)
        with await locks_of(self._queue).acquire([("taquba_bulk", "cache", key.name, key.digest)]):
            return await self._through(key, make, codec)

    async def sweep(self) -> None:
        """Remove what has expired."""
        cursor: str | None = None
        while True:
            page = await self._queue.kv_scan(_EXPIRIES, cursor, _PAGE)
            now = self._queue.clock.time_ms()
            expiries = [(_Expiry.read(entry.key), entry) for entry in page.entries]
            old = [(expiry, entry) for expiry, entry in expiries if expiry and expiry.at_ms <= now]
            await asyncio.gather(*(self._remove(*pair) for pair in old))
            cursor = page.next_cursor
            if cursor is None or any(expiry and expiry.at_ms > now for expiry, _ in expiries):
                return

    async def _through(
        self, key: CacheKey, make: Callable[[], Awaitable[Kept]], codec: Codec[Any]
    ) -> Kept:
        kept = await self._get(key)
        if kept is not None and _fits(codec, kept, key):
            return kept._replace(costs={})
        made = await make()
        await self._put(key, made.encode())
        return made

    async def _get(self, key: CacheKey) -> Kept | None:
        path = _path(quote(key.name, safe=""), key.digest)
        packed = await self._queue.kv_get(path)
        if packed is None:
            return None
        try:
            row = _Row.decode(packed)
            if row.expires_ms is not None and row.expires_ms <= self._queue.clock.time_ms():
                return None
            value: bytes | None
            if isinstance(row.value, str):
                value = await self._object(row.value, path, packed)
            else:
                value = row.value
            return None if value is None else Kept.decode(value)
        except (*UNREADABLE, InvalidArgument, ObjectDamaged) as error:
            _log.warning("an unreadable entry of cache %r is made anew: %s", key.name, error)
            return None

    async def _object(self, name: str, path: str, packed: bytes) -> bytes | None:
        """A large value; it may have cost something, so one answer does not make it a miss."""

        async def is_kept() -> bool:
            return await self._queue.kv_get(path) == packed

        try:
            return await read_named(self._queue, name, is_kept)
        except NamedObjectMissing as error:
            _log.warning("a value of a cache is made anew: %s", error)
            return None

    async def _put(self, key: CacheKey, value: bytes) -> None:
        name = quote(key.name, safe="")
        place = ""
        if len(value) > _MAX_INLINE:
            place = f"{_BASE}/{self._queue.next_job_id()}"
            await self._queue.objects.put(place, value)
        expires_ms = None
        if key.ttl_ms is not None:
            expires_ms = self._queue.clock.time_ms() + key.ttl_ms
            # Before the entry, which would never be swept otherwise.
            expiry = _Expiry(expires_ms, name, key.digest)
            await self._queue.kv_put(expiry.key(), place.encode())
        row = _Row(expires_ms, place or value)
        await self._queue.kv_put(_path(name, key.digest), msgpack.packb(row))

    async def _remove(self, expiry: _Expiry, entry: KvEntry[str]) -> None:
        """Remove an entry of a cache; after a crash at any point, the next sweep goes on."""
        path = _path(expiry.name, expiry.digest)
        packed = await self._queue.kv_get(path)
        try:
            # Otherwise it was made anew since.
            if packed is not None and _Row.decode(packed).expires_ms == expiry.at_ms:
                await self._queue.kv_compare_delete(path, packed)
            if entry.value:
                await self._queue.objects.delete([entry.value.decode()])
        except (*UNREADABLE, InvalidArgument) as error:
            _log.warning("what %r says is to be removed cannot be read: %s", entry.key, error)
            return
        await self._queue.kv_delete(entry.key)


def _fits(codec: Codec[Any], kept: Kept, key: CacheKey) -> bool:
    try:
        codec.load(kept.value)
    except Undecodable as error:
        _log.warning("an entry of the cache %r is made anew: %s", key.name, error)
        return False
    return True


def _path(name: str, digest: str) -> str:
    return f"{_BASE}/entry/{name}/{digest}"
