"""Opening an owner's database again, when the engine stopped though nobody else opened the store.

The engine stops for good when a single answer of the store does not fit: 404 to a write, "exists
already" for a number that is its own, a disk that is full for longer than it tries. Nothing that
was acknowledged is lost then, and all that memory believes is known: what is durable, and the rows
that were applied since. So the database is opened again below the queue, those rows are applied
once more, in their order, and the queue goes on. Every row is written as a whole (counters are
absolute), so it does not matter which of them had landed.

That is right only while nobody else owned the store in between. Two things tell. The manifest
counts how often the store was opened: before a new attempt it may count only this owner's openings
and attempts. And each owner writes a mark of its own in its first commit: after the attempt it must
be this owner's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Sequence
from typing import Final

from slatedb.uniffi import Db, DefaultMetricsRecorder, Error, ObjectStore

from taquba._engine import binding
from taquba._engine.again import again
from taquba._engine.building import Built, build_again, was_opened_since
from taquba._engine.reads import message_of, translate
from taquba._engine.syncing import FolderSync
from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._engine.write_batches import batch_of
from taquba._model import keys
from taquba._model.errors import StoreError, StoreFenced, TaqubaError
from taquba._model.keys import Op
from taquba._model.redaction import redact
from taquba._objects.disk import hindrance
from taquba._objects.limits import OPERATION_TIMEOUT
from taquba._objects.location import StoreLocation
from taquba._objects.owner_lock import OwnerLock, folder_removed

_log: Final = logging.getLogger(__name__)

PATIENCE: Final = OPERATION_TIMEOUT
"""Seconds for which a store that has worked is tried again, as long as calls wait for it."""

_LATER: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 0.5
_SHUTDOWN_SECONDS: Final = 2.0
"""What an engine that has stopped gets to end its tasks: the new one fences them anyway."""


class Reopening:
    """Opens the database of one owner again."""

    def __init__(
        self,
        location: StoreLocation,
        store: ObjectStore,
        log: WriteAheadLog,
        built: Built,
        folder: FolderSync | None,
        lock: OwnerLock | None,
        recorder: Callable[[], DefaultMetricsRecorder | None],
    ) -> None:
        self._location = location
        self._store = store
        self._log = log
        self._before = self._counted = built.before
        self._folder = folder
        self._lock = lock
        self._recorder = recorder
        self.marks: set[bytes | None] = set()
        """What the mark of the store's owner may be while nobody else has owned it."""

    @property
    def openings(self) -> int:
        """How often the store had been opened with this opening, at least."""
        return self._before + 1

    async def count(self) -> None:
        """Count the openings up to this one: an odd answer may have made it count twice."""
        manifest = await again(self._log.manifest, f"looking at {self._location.url}")
        if manifest is not None:
            self._counted = manifest.writer_epoch - 1

    def counted(self) -> None:
        """A commit was durable after `count`: all that it counted were this owner's openings.

        Before that one of them may be of another owner, which has fenced this one meanwhile.
        """
        self._before = self._counted

    async def reopen(
        self, stopped: Db, error: Error, unflushed: Callable[[], Sequence[Sequence[Op]]]
    ) -> Db:
        """A database that holds all that was applied, durably.

        Args:
            stopped: The one that stopped.
            error: What it said.
            unflushed: The rows that were applied and may not be durable, in order.

        Raises:
            StoreFenced: Another owner has opened the store.
            StoreError: It cannot be opened again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        pause = _FIRST_PAUSE
        trouble: TaqubaError = translate(error)
        ending: Db | None = stopped
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._check_owner()
                    if ending is not None:
                        ending = None
                        what = redact(message_of(error))
                        _log.warning("%s: %s; opening it again", self._location.url, what)
                        await _shut_down(stopped)
                    db = await self._attempt(unflushed)
            except TimeoutError:
                break
            except StoreError as failed:
                if failed.permanent and failed.__cause__ is None:
                    # Not an answer of the store, but what was made of several.
                    raise
                trouble = await self._named(failed)
                _log.info("%s: an attempt to open it again failed: %s", self._location.url, trouble)
            else:
                _log.warning("%s: the store was opened again, nothing is lost", self._location.url)
                return db
            if loop.time() + pause >= deadline:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if isinstance(trouble, StoreError):
            trouble = await self._named(trouble)
        raise StoreError(
            f"the storage engine stopped ({message_of(error)}), and could not be opened again "
            f"within {PATIENCE:g} s: {trouble}; close the queue, open it again",
            permanent=True,
        ) from error

    async def _named(self, error: StoreError) -> StoreError:
        folder = self._location.folder
        problem = None if folder is None else await asyncio.to_thread(hindrance, folder)
        return error if problem is None else problem.as_error(self._location)

    async def can_sync_later(self, error: OSError) -> bool:
        """Wait a moment where nothing was synced yet, because no file could be opened.

        Raises:
            StoreError: A file was not put on disk, and never may be: it says why.
        """
        if error.errno in _LATER:
            await asyncio.sleep(_FIRST_PAUSE)
            return True
        folder = self._location.folder
        problem = None if folder is None else await asyncio.to_thread(hindrance, folder, error)
        if problem is not None:
            problem.permanent = True
            raise problem.as_error(self._location) from error
        return False

    async def _check_owner(self) -> None:
        if self._lock is not None and await asyncio.to_thread(self._lock.is_removed):
            raise folder_removed()
        if await was_opened_since(self._log, self._before):
            raise StoreFenced

    async def _attempt(self, unflushed: Callable[[], Sequence[Sequence[Op]]]) -> Db:
        opened = self._before + 1
        # Whatever becomes of this attempt, it may count.
        self._before += 1
        try:
            built = await build_again(
                self._location, self._store, self._log, self._recorder(), opened
            )
        except StoreError:
            await self._forget_if_not_counted()
            raise
        try:
            if self.marks and await built.db.get(keys.OWNER) not in self.marks:
                raise StoreFenced
            await self._apply(built.db, unflushed)
        except (Error, OSError) as failed:
            await _shut_down(built.db)
            raise translate(failed) from failed
        except BaseException:
            await _shut_down(built.db)
            raise
        self._before = built.before
        return built.db

    async def _forget_if_not_counted(self) -> None:
        """An attempt that fenced nobody must not hide another owner, who did."""
        with contextlib.suppress(StoreError):
            manifest = await self._log.manifest()
            if manifest is not None:
                self._before = min(self._before, manifest.writer_epoch - 1)

    async def _apply(self, db: Db, unflushed: Callable[[], Sequence[Sequence[Op]]]) -> None:
        """Write what was applied since the last flush, up to what was while this was done."""
        applied = 0
        while True:
            for ops in unflushed()[applied:]:
                batch, _ = await batch_of(ops)
                await binding.write(db, batch)
                applied += 1
            await binding.flush(db)
            if self._folder is not None:
                await self._folder.run(self._folder.folder.sync_all)
            if applied == len(unflushed()):
                return


async def _shut_down(db: Db) -> None:
    with contextlib.suppress(Error, TimeoutError):
        async with asyncio.timeout(_SHUTDOWN_SECONDS):
            await db.shutdown()
