"""SlateDB behind a small surface: open, write, flush, close; reading is in `reads`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from slatedb.uniffi import (
    CloseReason,
    Db,
    DefaultMetricsRecorder,
    Error,
    FlushOptions,
    FlushType,
    MetricValue,
)

from taquba._engine import binding
from taquba._engine.again import may_be_odd, was_repeated
from taquba._engine.binding import Handle
from taquba._engine.building import build
from taquba._engine.memory import return_free_memory
from taquba._engine.object_store import connect_engine
from taquba._engine.reads import Reads, bounded, message_of, translate
from taquba._engine.recent import RecentEntries
from taquba._engine.reopening import Reopening
from taquba._engine.syncing import FolderSync
from taquba._engine.wal_check import mark_of
from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._engine.write_batches import batch_of
from taquba._model import keys
from taquba._model.errors import QueueClosed, StoreError, StoreFenced, TaqubaError
from taquba._model.ids import IdGenerator
from taquba._model.keys import Op
from taquba._model.own_tasks import only_it_was_cancelled, was_cancelled
from taquba._model.redaction import without_secrets
from taquba._objects.folder import DurableFolder, remove_unfinished_of_engine
from taquba._objects.location import StoreLocation
from taquba._objects.owner_lock import OwnerLock, folder_removed

_MOST_WAL_OBJECTS: Final = 128
"""Write-ahead objects in a bucket after which what they hold is written as tables.

Each of them costs the next owner two requests before it serves, and the engine believes each single
answer to these; it would let them grow to 4096 and more. Those of a folder are read at once.
"""

_TRIM_COST: Final = 128 * 1024 * 1024
"""Writing, in the measure of `batch_of`, after which freed memory is returned."""

_REQUESTS: Final = "slatedb.object_store.request_count"

_FLUSH_TABLES: Final = FlushOptions(flush_type=FlushType.MEM_TABLE)


_WRITING_SECONDS: Final = 60.0
"""A file that nobody has written to for so long has no writer, though another owner lives."""


def _sweep(folder: Path, lock: OwnerLock) -> None:
    """Remove what former owners had not finished, before the engine begins to write."""
    remove_unfinished_of_engine(folder, 0.0 if lock.is_alone() else _WRITING_SECONDS)


class Engine(Reads):
    """An open SlateDB database: the only code that touches its handle."""

    def __init__(
        self,
        db: Db,
        folder: FolderSync | None,
        lock: OwnerLock | None,
        recorders: Sequence[DefaultMetricsRecorder] = (),
        *,
        in_bucket: bool = False,
        reopening: Reopening | None = None,
    ) -> None:
        super().__init__(db)
        self._db = db
        self._in_bucket = in_bucket
        self._recent = RecentEntries()
        self._wal_objects = 0
        self._shortening: asyncio.Task[None] | None = None
        self._untrimmed = 0
        self._trouble: Error | None = None
        self._folder = folder
        self._lock = lock
        self._recorders = recorders
        self._reopening = reopening
        self._reopened: asyncio.Task[None] | None = None
        self._failure: TaqubaError | None = None
        self._closing = False
        self._unflushed: list[Sequence[Op]] = []
        """What was applied and may not be durable, in order."""

    @classmethod
    async def open(
        cls,
        location: StoreLocation,
        lock: OwnerLock | None = None,
        *,
        fsync: bool,
        count_requests: bool = False,
    ) -> Engine:
        """Open for writing, which fences any other owner of the store.

        The lock of a folder is released when the engine is closed, and when it cannot be opened.
        """
        durable = DurableFolder(location.folder) if fsync and location.folder else None
        folder = None if durable is None else FolderSync(durable)
        recorders: list[DefaultMetricsRecorder] = []

        def new_recorder() -> DefaultMetricsRecorder | None:
            # The engine registers its metrics through Python, here; counting is all its own.
            if not count_requests:
                return None
            recorders.append(DefaultMetricsRecorder())
            return recorders[-1]

        try:
            store = await asyncio.to_thread(connect_engine, location)
            log = await WriteAheadLog.connect(location, store)
            if folder is not None:
                await folder.run(folder.folder.prepare)
            if location.folder is not None and lock is not None:
                await asyncio.to_thread(_sweep, location.folder, lock)
            built = await build(location, store, log, new_recorder())
            if folder is not None:
                await folder.run(folder.folder.sync_all)
        except BaseException:
            if folder is not None:
                folder.close()
            if lock is not None:
                lock.release()
            raise
        reopening = None
        if not location.in_memory:
            reopening = Reopening(location, store, log, built, folder, lock, new_recorder)
        in_bucket = location.bucket is not None
        return cls(built.db, folder, lock, recorders, in_bucket=in_bucket, reopening=reopening)

    @property
    def openings(self) -> int:
        """How often the store had been opened with this opening, at least; 0 in memory."""
        return 0 if self._reopening is None else self._reopening.openings

    @property
    def fenced_living_owner(self) -> bool:
        """Whether it is known that the owner that this opening has fenced was alive."""
        return self._lock is not None and self._lock.others_live

    async def mark(self, ids: IdGenerator) -> Op:
        """The row, to be written at once, that tells this owner from those before and after it."""
        # Before the openings are counted: a later one may not have fenced this owner yet.
        owner = ids.next()
        mark = mark_of(owner, self.openings)
        if self._reopening is not None:
            await self._reopening.count()
            self._reopening.begin(owner, mark)
        return keys.OWNER, mark

    @property
    def owners(self) -> set[str | None]:
        """Whose mark the store may have while this opening is not over: its own, and the former."""
        return set() if self._reopening is None else self._reopening.owners

    async def opened(self) -> None:
        """Its first commit is durable: tell those who look for an owner."""
        if self._reopening is not None:
            self._reopening.counted()
        if self._lock is not None:
            await asyncio.to_thread(self._lock.opened)

    async def write(self, ops: Sequence[Op]) -> None:
        """Apply `ops` atomically; they are visible afterwards, and durable after `flush`."""
        entries = self._recent.begin(ops)
        while True:
            db = self._db
            batch, cost = await batch_of(ops)
            self._untrimmed += cost
            try:
                await binding.write(db, batch)
            except Error as error:
                await self._go_on_after(error, db)
            else:
                if db is self._db:
                    break
        self._unflushed.append(ops)
        self._recent.add(entries)

    async def _read(self, key: bytes) -> bytes | None:
        recent = self._recent.get(key)
        return await super()._read(key) if recent is None else recent

    async def flush(self) -> None:
        """Make everything applied so far durable."""
        while True:
            db, covered = self._db, len(self._unflushed)
            try:
                await binding.flush(db)
                self._wal_objects += 1
                if self._folder is not None:
                    await self._folder.run(self._folder.folder.sync)
            except Error as error:
                await self._go_on_after(error, db)
            except OSError as error:
                later = self._reopening is not None and await self._reopening.can_sync_later(error)
                if not later or self._closing:
                    raise translate(error) from error
            else:
                if db is self._db:
                    del self._unflushed[:covered]
                    if self._wal_objects >= _MOST_WAL_OBJECTS:
                        self._shorten_wal()
                    return

    async def _go_on_after(self, error: Error, handle: Handle) -> None:
        """Have the database open again after it failed, or raise why it is not.

        An engine that failed once can no longer be used, whatever it reports.
        """
        if self._failure is not None:
            raise self._failure.again()
        if handle is not self._db:
            return
        clean = isinstance(error, Error.Closed) and error.reason is CloseReason.CLEAN
        misused = isinstance(error, (Error.Invalid, Error.Transaction))
        if self._reopening is None or self._closing or clean or misused:
            self._trouble = error
            raise translate(error) from without_secrets(error)
        reopened = self._reopened
        if reopened is None or reopened.done():
            reopened = self._reopened = asyncio.create_task(self._reopen(self._reopening, error))
        try:
            await asyncio.shield(reopened)
        except asyncio.CancelledError:
            if only_it_was_cancelled(reopened) and not self._closing:
                raise was_cancelled(reopened) from None
            raise
        if self._failure is not None:
            raise self._failure.again()

    def _has_stopped(self, handle: Handle) -> bool:
        return isinstance(handle, Db) and handle.status().close_reason is not None

    async def _reopen(self, reopening: Reopening, error: Error) -> None:
        try:
            self._db = await reopening.reopen(self._db, error, lambda: self._unflushed)
            self._handle = self._db
            self._unflushed.clear()
            # It may stop again, and the next time has less to read.
            self._shorten_wal()
        except Exception as failed:
            self._failure = translate(failed)
            if self._lock is not None and isinstance(self._failure, StoreFenced):
                # The next owner tells by it whether the one before it, which is another, lives.
                self._lock.release()
        finally:
            self._reopened = None

    async def tidy(self) -> None:
        """Do what has to be done once in a while.

        That is: opening again what has stopped, putting new tables on disk, returning freed
        memory, and shortening a log that could not be shortened before.

        Raises `StoreError` when a local store was removed: the engine would make it again, without
        what it held, and go on.
        """
        if self._lock is not None and await asyncio.to_thread(self._lock.is_removed):
            raise folder_removed()
        stopped = self._db.status().close_reason
        if stopped is not None:
            await self._go_on_after(Error.Closed(stopped, stopped.name.lower()), self._db)
        if self._folder is not None:
            try:
                await self._folder.run(self._folder.folder.sync_tables)
            except OSError as error:
                raise translate(error) from without_secrets(error)
        if self._untrimmed >= _TRIM_COST:
            self._untrimmed = 0
            await asyncio.to_thread(return_free_memory)
        if self._wal_objects >= _MOST_WAL_OBJECTS:
            self._shorten_wal()

    def _shorten_wal(self) -> None:
        # Aside: nobody waits for it, and a store that hangs must not hold up who calls this.
        if self._in_bucket and (self._shortening is None or self._shortening.done()):
            self._shortening = asyncio.create_task(self._flush_tables())

    async def _flush_tables(self) -> None:
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
        for recorder in list(self._recorders):
            for metric in recorder.metrics_by_name(_REQUESTS):
                labels = {label.key: label.value for label in metric.labels}
                if isinstance(metric.value, MetricValue.COUNTER) and metric.value[0]:
                    kind = labels["component"], labels["api"]
                    counts[kind] = counts.get(kind, 0) + metric.value[0]
        return counts

    def failure(self) -> TaqubaError | None:
        """Why the engine can no longer write, or None while it can, or may be opened again."""
        if self._failure is not None or self._reopening is not None:
            return self._failure
        reason = self._db.status().close_reason
        if reason is None:
            return None
        # The engine tells only once what went wrong, to who waited for it.
        message = reason.name.lower() if self._trouble is None else message_of(self._trouble)
        return translate(Error.Closed(reason, message))

    async def close(self, *, hurried: bool = False) -> None:
        """Write what is in memory as tables, and stop the engine.

        `hurried` leaves what is durable to the next owner, who reads it from the log. A caller
        that cancels this leaves the engine to the end of the process.
        """
        self._closing = True
        if self._shortening is not None:
            self._shortening.cancel()
        try:
            if self._reopened is not None:
                self._reopened.cancel()
                await asyncio.wait([self._reopened])
            problem: TaqubaError | None = None
            if not hurried and self._failure is None and not self._has_stopped(self._db):
                try:
                    await self._write_tables()
                except TaqubaError as error:
                    problem = error
            await bounded(self._db.shutdown(), "closing")
            if problem is not None:
                raise problem
        except (StoreFenced, QueueClosed):
            # Nothing is lost: what was acknowledged is durable, the rest is not ours to write.
            return
        finally:
            if self._folder is not None:
                self._folder.close()
            if self._lock is not None:
                self._lock.release()

    async def _write_tables(self) -> None:
        started = time.monotonic()
        try:
            await bounded(self._db.flush_with_options(_FLUSH_TABLES), "the closing flush")
            if self._folder is not None:
                await self._folder.run(self._folder.folder.sync)
        except OSError as error:
            raise translate(error) from without_secrets(error)
        except StoreError as error:
            cause = error.__cause__
            if (
                not self._in_bucket
                or self._reopening is None
                or not isinstance(cause, Error)
                or was_repeated(cause, started)
                or not may_be_odd(error)
            ):
                raise
            # The log is enough for the next owner; what the last commits say must be in it.
            self._db = await self._reopening.reopen(self._db, cause, lambda: self._unflushed)
            self._handle = self._db
            self._unflushed.clear()
