"""SlateDB opened for reading only, beside an owner in this or another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Literal

from slatedb.uniffi import DbReader, DbReaderBuilder, ReaderMode, ReaderOptions

from taquba._engine.object_store import connect_engine
from taquba._engine.reads import Reads, bounded
from taquba._objects.location import StoreLocation

Mode = Literal["checkpoint", "follow_latest"]

_CHECKPOINT_LIFETIME_MS: Final = 60_000
"""How long a checkpoint outlives a reader that died without closing; more if it polls slowly."""

_LOOK_POLL_MS: Final = 60_000
"""A single look is closed before it would look again."""

_MEMTABLE_BYTES: Final = 64 * 1024 * 1024


class ReadOnlyEngine(Reads):
    """A read-only database that follows what the owner commits."""

    def __init__(self, reader: DbReader) -> None:
        super().__init__(reader)
        self._reader = reader

    @classmethod
    async def open(cls, location: StoreLocation, mode: Mode, poll_ms: int) -> ReadOnlyEngine:
        """Open a database that is there, without disturbing its owner."""
        store = await asyncio.to_thread(connect_engine, location, read_only=True)
        builder = DbReaderBuilder(location.path, store)
        follow = mode == "follow_latest"
        builder.with_reader_mode(
            ReaderMode.FOLLOW_LATEST() if follow else ReaderMode.MANAGED_CHECKPOINT()
        )
        builder.with_options(
            ReaderOptions(
                manifest_poll_interval_ms=poll_ms,
                checkpoint_lifetime_ms=max(_CHECKPOINT_LIFETIME_MS, 4 * poll_ms),
                max_memtable_bytes=_MEMTABLE_BYTES,
                skip_wal_replay=False,
                object_store_max_retries=location.retries,
            )
        )
        return cls(await bounded(builder.build(), f"opening {location.url} for reading"))

    async def close(self) -> None:
        """Let go of the store, and of the checkpoint."""
        await bounded(self._reader.shutdown(), "closing the reader")


@asynccontextmanager
async def looking_once(location: StoreLocation) -> AsyncGenerator[ReadOnlyEngine]:
    """A database as it is now; writes nothing."""
    engine = await ReadOnlyEngine.open(location, "follow_latest", _LOOK_POLL_MS)
    try:
        yield engine
    finally:
        await engine.close()
