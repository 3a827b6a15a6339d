"""SlateDB behind a small surface: open, write, flush, close; reading is in `reads`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from slatedb.uniffi import (
    Db,
    DefaultMetricsRecorder,
    Error,
    FlushOptions,
    FlushType,
    MetricValue,
    WriteBatch,
)

from taquba._model.errors import QueueClosed, StoreError, StoreFenced, TaqubaError
from taquba._model.keys import Op
from taquba._model.redaction import without_secrets
from taquba._store import binding
from taquba._store.building import build
from taquba._store.engine_objects import connect_engine
from taquba._store.folder import DurableFolder
from taquba._store.limits import LAST_SECONDS, OPERATION_TIMEOUT
from taquba._store.location import StoreLocation
from taquba._store.memory import return_free_memory
from taquba._store.owner_lock import OwnerLock
from taquba._store.reads import Reads, bounded, message_of, translate
from taquba._store.recent import RecentEntries
from taquba._store.syncing import FolderSync

_FILL_COST: Final = 1024 * 1024
"""Bytes lowered into a batch between two turns of the event loop (about 1.5 ms)."""

_ROW_COST: Final = 2048
"""What lowering a row costs besides its value, in bytes that could be copied meanwhile."""

_MOST_WAL_OBJECTS: Final = 512
"""Write-ahead objects in a bucket after which what they hold is written as tables.

Each of them costs the next owner two requests before it serves; the engine itself would let them
grow to 4096 and more. Those of a folder are read at once.
"""

_TRIM_COST: Final = 128 * 1024 * 1024
"""Writing, in the measure of `_ROW_COST`, after which freed memory is returned."""

_REQUESTS: Final = "slatedb.object_store.request_count"

_FLUSH_TABLES: Final = FlushOptions(flush_type=FlushType.MEM_TABLE)


class Engine(Reads):
    """An open SlateDB database: the only code that touches its handle."""

    def __init__(
        self,
        db: Db,
        folder: FolderSync | None,
        lock: OwnerLock | None,
        recorder: DefaultMetricsRecorder | None = None,
        *,
        shortens_wal: bool = False,
    ) -> None:
        super().__init__(db)
        self._db = db
        self._shortens_wal = shortens_wal
        self._recent = RecentEntries()
        self._wal_objects = 0
        self._shortening: asyncio.Task[None] | None = None
        self._untrimmed = 0
        self._trouble: Error | None = None
        self._folder = folder
        self._lock = lock
        self._recorder = recorder

    @classmethod
    async def open(
        cls, location: StoreLocation, *, fsync: bool, count_requests: bool = False
    ) -> Engine:
        """Open for writing, which fences any other owner of the store."""
        durable = DurableFolder(location.folder) if fsync and location.folder else None
        folder = None if durable is None else FolderSync(durable)
        store = await asyncio.to_thread(connect_engine, location)
        lock = await asyncio.to_thread(OwnerLock, location.folder) if location.folder else None
        try:
            if folder is not None:
                await folder.run(folder.folder.prepare)
            # The engine registers its metrics through Python, here; counting is all its own.
            recorder = DefaultMetricsRecorder() if count_requests else None
            db, _ = await build(location, store, recorder)
            if folder is not None:
                await folder.run(folder.folder.sync_all)
        except BaseException:
            if folder is not None:
                folder.close()
            if lock is not None:
                lock.release()
            raise
        return cls(db, folder, lock, recorder, shortens_wal=location.bucket is not None)

    async def opened(self) -> None:
        """Tell those who look for an owner that the store has been written to by this one."""
        if self._lock is not None:
            await asyncio.to_thread(self._lock.opened)

    async def write(self, ops: Sequence[Op]) -> None:
        """Apply `ops` atomically; they are visible afterwards, and durable after `flush`."""
        batch = WriteBatch()
        start = size = 0
        for position, (_, value) in enumerate(ops):
            size += _ROW_COST if value is None else _ROW_COST + len(value)
            if size >= _FILL_COST:
                binding.fill(batch, ops[start : position + 1])
                self._untrimmed += size
                start, size = position + 1, 0
                await asyncio.sleep(0)
        binding.fill(batch, ops[start:])
        self._untrimmed += size
        entries = self._recent.begin(ops)
        try:
            await binding.write(self._db, batch)
        except Error as error:
            raise translate(error) from without_secrets(error)
        self._recent.add(entries)

    async def _read(self, key: bytes) -> bytes | None:
        recent = self._recent.get(key)
        return await super()._read(key) if recent is None else recent

    async def flush(self) -> None:
        """Make everything applied so far durable."""
        try:
            await binding.flush(self._db)
            self._wal_objects += 1
            if self._folder is not None:
                await self._folder.run(self._folder.folder.sync)
        except Error as error:
            self._trouble = error
            raise translate(error) from without_secrets(error)
        except OSError as error:
            raise translate(error) from without_secrets(error)

    async def tidy(self) -> None:
        """Once in a while: put new tables on disk, return freed memory, shorten a bucket's log.

        Raises `StoreError` when a local store was removed: the engine would make it again, without
        what it held, and go on.
        """
        if self._lock is not None and await asyncio.to_thread(self._lock.is_removed):
            raise StoreError(
                "the store's folder was removed while it was open; restore it, and open it again",
                permanent=True,
            )
        if self._folder is not None:
            try:
                await self._folder.run(self._folder.folder.sync_tables)
            except OSError as error:
                raise translate(error) from without_secrets(error)
        if self._untrimmed >= _TRIM_COST:
            self._untrimmed = 0
            await asyncio.to_thread(return_free_memory)
        if self._shortens_wal and self._wal_objects >= _MOST_WAL_OBJECTS and not self._shortening:
            # Aside: nobody waits for it, and a store that hangs must not hold up who calls this.
            self._shortening = asyncio.create_task(self._shorten_wal())

    async def _shorten_wal(self) -> None:
        written = self._wal_objects
        try:
            await self._db.flush_with_options(_FLUSH_TABLES)
            self._wal_objects -= written
        except Error:
            # Tried again; who commits is told what is wrong with the store.
            return
        finally:
            self._shortening = None

    def requests(self) -> dict[tuple[str, str], int]:
        """Requests to the object store so far, by component and kind, if they are counted.

        May be called from any thread.
        """
        counts: dict[tuple[str, str], int] = {}
        if self._recorder is not None:
            for metric in self._recorder.metrics_by_name(_REQUESTS):
                labels = {label.key: label.value for label in metric.labels}
                if isinstance(metric.value, MetricValue.COUNTER) and metric.value[0]:
                    counts[labels["component"], labels["api"]] = metric.value[0]
        return counts

    def failure(self) -> TaqubaError | None:
        """Why the engine can write no more, or None while it can."""
        reason = self._db.status().close_reason
        if reason is None:
            return None
        # The engine tells only once what went wrong, to who waited for it.
        message = reason.name.lower() if self._trouble is None else message_of(self._trouble)
        return translate(Error.Closed(reason, message))

    async def close(self, *, hurried: bool = False) -> None:
        """Write what is in memory as tables, and stop the engine.

        `hurried` leaves what is durable to the next owner, who reads it from the log, and waits
        for a store that does not answer no longer than a moment.
        """
        if self._shortening is not None:
            self._shortening.cancel()
        try:
            try:
                if not hurried and self.failure() is None:
                    await self._write_tables()
            finally:
                seconds = LAST_SECONDS if hurried else OPERATION_TIMEOUT
                await bounded(self._db.shutdown(), "closing", seconds)
        except (StoreFenced, QueueClosed):
            # Nothing is lost: what was acknowledged is durable, the rest is not ours to write.
            return
        finally:
            if self._folder is not None:
                self._folder.close()
            if self._lock is not None:
                self._lock.release()

    async def _write_tables(self) -> None:
        try:
            await bounded(self._db.flush_with_options(_FLUSH_TABLES), "the closing flush")
            if self._folder is not None:
                await self._folder.run(self._folder.folder.sync)
        except OSError as error:
            raise translate(error) from without_secrets(error)
