"""Results of phases, by their content, for all runs of a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import anyio
import msgpack

from taquba import Duration, InvalidArgument, ObjectDamaged, Store, TaqubaError
from taquba.extending import UNREADABLE, locks_of
from taquba.extending.checks import duration_ms
from taquba.extending.expiries import Expiries, Expiry, expiry_key
from taquba.extending.named import (
    MAX_INLINE,
    NamedObjectMissing,
    entry_is,
    new_name,
    read_named,
)
from taquba.extending.typed import Codec, Undecodable
from taquba_bulk import _values
from taquba_bulk._holds import Hold, Stamp, held_by_another
from taquba_bulk._phases import Kept, in_phase

_log: Final = logging.getLogger(__name__)

_BASE: Final = "taquba_bulk_cache"
_ENTRIES: Final = f"{_BASE}/entry/"
_EXPIRIES: Final = f"{_BASE}/expiry/"


class CacheKey(NamedTuple):
    """An entry of a cache.

    Attributes:
        name: The cache.
        digest: Hash of everything that the value depends on.
        ttl_ms: How long an entry that is made now may be used; None means forever.
    """

    name: str
    digest: str
    ttl_ms: int | None

    @property
    def path(self) -> str:
        """Its key in the store."""
        return f"{_ENTRIES}{quote(self.name, safe='')}/{self.digest}"


class _Row(NamedTuple):
    expires_ms: int | None
    value: bytes | str
    """The value, or the name of its object."""

    @classmethod
    def decode(cls, packed: bytes) -> _Row:
        """Read a row; raises one of `UNREADABLE` if it is damaged."""
        expires_ms, value = msgpack.unpackb(packed)
        return cls(None if expires_ms is None else int(expires_ms), value)


def cache_key(name: str, content: str, ttl: Duration | None) -> CacheKey:
    """The entry for a text that contains everything that its value depends on."""
    _values.name(name, "the name of a cache")
    digest = sha256(content.encode(errors="surrogatepass")).hexdigest()
    return CacheKey(name, digest, None if ttl is None else duration_ms(ttl, "ttl", minimum=1))


class Cache:
    """The caches of a store.

    Args:
        store: An open handle on the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._expiries = Expiries(store, _EXPIRIES, "taquba_bulk")

    async def through(
        self, key: CacheKey, make: Callable[[], Awaitable[Kept]], codec: Codec[Any]
    ) -> Kept:
        """Return the cached value, without costs, or make it with `make` and cache it.

        An entry that `codec` cannot read counts as missing.

        Callers that need the same value while it is being made wait for it, in whichever process:
        while one makes it, it holds the entry.
        """
        if in_phase():
            # If the entry were held within another phase, the two could wait for each other.
            kept = await self._get(key, codec, await self._store.kv_get(key.path))
            if kept is None:
                kept = await make()
                await self._store.kv_put(key.path, await self._row_of(key, kept.encode()))
                return kept
            return kept
        with await locks_of(self._store).acquire([("taquba_bulk", "cache", key.path)]):
            return await self._through(key, make, codec)

    async def sweep(self) -> None:
        """Remove expired entries."""
        await self._expiries.sweep(self._remove)

    async def _through(
        self, key: CacheKey, make: Callable[[], Awaitable[Kept]], codec: Codec[Any]
    ) -> Kept:
        hold = Hold(self._store, key.path)
        while True:
            packed = await self._store.kv_get(key.path)
            kept = await self._get(key, codec, packed)
            if kept is not None:
                return kept
            if packed is not None and await held_by_another(self._store, key.path, packed):
                continue
            if await hold.take(packed, b""):
                break
        keeping = asyncio.create_task(hold.keep(), name="taquba-bulk-cache")
        try:
            made = await make()
            # Where the entry was lost, another process has made the value, or does.
            await hold.replace(await self._row_of(key, made.encode()))
            return made
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(TaqubaError):
                await hold.let_go()
            raise
        finally:
            keeping.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((keeping,))
            if not keeping.cancelled():
                # It was lost.
                keeping.exception()

    async def _get(self, key: CacheKey, codec: Codec[Any], packed: bytes | None) -> Kept | None:
        """The value of an entry, without costs; None if it has none that can be used."""
        if packed is None or Stamp.decode(packed) is not None:
            return None
        try:
            row = _Row.decode(packed)
            if row.expires_ms is not None and row.expires_ms <= self._store.clock.time_ms():
                return None
            value: bytes | None
            if isinstance(row.value, str):
                value = await self._object(row.value, key.path, packed)
            else:
                value = row.value
            kept = None if value is None else Kept.decode(value)
        except (*UNREADABLE, InvalidArgument, ObjectDamaged) as error:
            _log.warning("an unreadable entry of cache %r is made anew: %s", key.name, error)
            return None
        if kept is None or not _fits(codec, kept, key):
            return None
        return kept._replace(costs={})

    async def _object(self, name: str, path: str, packed: bytes) -> bytes | None:
        """Read a large value; a single answer does not make it missing, as it may be expensive."""
        try:
            return await read_named(self._store, name, entry_is(self._store, path, packed))
        except NamedObjectMissing as error:
            _log.warning("a value of a cache is made anew: %s", error)
            return None

    async def _row_of(self, key: CacheKey, value: bytes) -> bytes:
        """The row for a value; its object and its expiry are written."""
        place = ""
        if len(value) > MAX_INLINE:
            place = new_name(self._store, _BASE)
            await self._store.objects.put(place, value)
        expires_ms = None
        if key.ttl_ms is not None:
            expires_ms = self._store.clock.time_ms() + key.ttl_ms
            # Before the entry, which would otherwise never be swept.
            expiry = expiry_key(_EXPIRIES, expires_ms, key.path.removeprefix(_ENTRIES))
            await self._store.kv_put(expiry, place.encode())
        packed: bytes = msgpack.packb(_Row(expires_ms, place or value))
        return packed

    async def _remove(self, expiry: Expiry) -> None:
        """Remove an entry of a cache; after a crash at any point, the next sweep continues."""
        path = f"{_ENTRIES}{expiry.what}"
        packed = await self._store.kv_get(path)
        try:
            # Otherwise it was made anew since then, or is being made.
            is_made = packed is not None and Stamp.decode(packed) is None
            if packed is not None and is_made and _Row.decode(packed).expires_ms == expiry.at_ms:
                await self._store.kv_compare_delete(path, packed)
            if expiry.value:
                await self._store.objects.delete([expiry.value.decode()])
        except (*UNREADABLE, InvalidArgument) as error:
            _log.warning("what %r says is to be removed cannot be read: %s", expiry.key, error)
            return
        await self._store.kv_delete(expiry.key)


def _fits(codec: Codec[Any], kept: Kept, key: CacheKey) -> bool:
    try:
        codec.load(kept.value)
    except Undecodable as error:
        _log.warning("an entry of the cache %r is made anew: %s", key.name, error)
        return False
    return True
