"""Opening an owner's database again, when the engine stopped though nobody else opened the store.

The engine stops for good when a single answer of the store does not fit: 404 to a write, "exists
already" for a number that is its own, a disk that is full for longer than it tries. Nothing that
was acknowledged is lost then, and all that memory believes is known: what is durable, and the rows
that were applied since. So the database is opened again below the queue, those rows are applied
once more, in their order, and the queue goes on. Every row is written as a whole (counters are
absolute), so it does not matter which of them had landed.

That is right only while nobody else owned the store in between. Two things tell. The manifest
counts how often the store was opened: before a new attempt it may count only this owner's openings
and attempts. And each owner writes a mark of its own in its first commit, and another one whenever
it has opened its engine again: after the attempt it must be the last one that this owner knows.

The count may include somebody who opened the store at the same moment as this owner, and somebody
may begin to open it after it was read. The attempt fences them then, but must not keep the store
from them. Whose opening is not over repeats it, from the beginning: this owner may have committed
meanwhile. Whose opening is over finds its mark in the store, and that this one had announced its
attempt: it opens its own engine again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Sequence
from typing import Final

from slatedb.uniffi import Db, DefaultMetricsRecorder, Error, ObjectStore, VersionedManifest

from taquba._engine import binding
from taquba._engine.again import again
from taquba._engine.building import Built, build_once, look_again, shut_down
from taquba._engine.read_only import looking_once
from taquba._engine.reads import message_of, translate
from taquba._engine.repairs import Repairs
from taquba._engine.syncing import FolderSync
from taquba._engine.wal_check import mark_of, owner_of
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
        self._repairs = Repairs(log.objects)
        self._uncounted = False
        """Whether an attempt has failed, and it is not known how often it counted."""
        self._owner: str | None = None
        self._is_open = False
        self._marks = {built.mark}
        """What the mark of the store's owner may be while nobody else has owned it."""

    @property
    def owners(self) -> set[str | None]:
        """Whose these marks are."""
        return {owner_of(mark) for mark in self._marks}

    @property
    def openings(self) -> int:
        """How often the store had been opened with this opening, at least."""
        return self._before + 1

    async def count(self) -> None:
        """Count the openings up to this one: an odd answer may have made it count twice."""
        manifest = await again(self._log.manifest, f"looking at {self._location.url}")
        if manifest is not None:
            self._counted = manifest.writer_epoch - 1

    def begin(self, owner: str, mark: bytes) -> None:
        """This owner is about to write its mark."""
        self._owner = owner
        self._marks.add(mark)

    def counted(self) -> None:
        """A commit was durable after `count`: all that it counted were this owner's openings.

        Before that one of them may be of another owner, which has fenced this one meanwhile.
        """
        # The engine may have been opened again meanwhile, which counts, too.
        self._before = max(self._before, self._counted)
        self._is_open = True

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
                        await shut_down(stopped)
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
                await self._repairs.end()
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
        manifest = await self._log.manifest()
        if manifest is None:
            return
        if self._uncounted:
            self._count(manifest)
        elif manifest.writer_epoch > self._before + 1:
            if not await self._has_the_store():
                raise StoreFenced
            self._count(await self._log.manifest())

    async def _has_the_store(self) -> bool:
        """Whether this owner was fenced by a former one only, which has given way meanwhile."""
        if self._owner is None or not self._is_open:
            return False
        try:
            if not await self._repairs.has_fenced(self._owner):
                return False
        except StoreError as error:
            # Somebody did open the store: it is not kept waiting for what cannot be read.
            _log.warning("%s: %s", self._location.url, error)
            return False

        async def last_mark() -> bytes | None:
            async with looking_once(self._location) as newest:
                return await newest.get(keys.OWNER)

        # The note is gone: one odd answer must not take it for nothing.
        return await again(last_mark, f"looking at {self._location.url}") in self._marks

    async def _attempt(self, unflushed: Callable[[], Sequence[Sequence[Op]]]) -> Db:
        opened = self._before + 1
        before = await look_again(self._location, self._log, opened)
        if self._owner is not None:
            await self._repairs.announce(self._owner, opened)
        # Whatever becomes of this attempt, it may count, and more than once: the engine repeats
        # what was carried out and answered oddly.
        self._before += 1
        self._uncounted = True
        try:
            built = await build_once(
                self._location, self._store, self._log, self._recorder(), before
            )
        except StoreError:
            with contextlib.suppress(StoreError):
                self._count(await self._log.manifest())
            raise
        try:
            if built.mark not in self._marks:
                await self._give_way(built.mark)
                raise StoreFenced
            self._count(await self._log.manifest())
            await self._apply(built.db, unflushed)
        except (Error, OSError) as failed:
            await shut_down(built.db)
            if isinstance(failed, Error.Closed):
                # Also where it says that somebody opened the store: the count tells.
                raise StoreError(
                    f"the storage engine stopped again: {message_of(failed)}"
                ) from failed
            raise translate(failed) from failed
        except BaseException:
            await shut_down(built.db)
            raise
        return built.db

    async def _give_way(self, mark: bytes | None) -> None:
        newer = owner_of(mark)
        if newer is not None and self._owner is not None:
            with contextlib.suppress(StoreError):
                await self._repairs.give_way(newer)

    def _count(self, manifest: VersionedManifest | None) -> None:
        """Take all openings so far for this owner's: an attempt has just fenced all others."""
        if manifest is not None:
            self._before = manifest.writer_epoch - 1
            self._uncounted = False

    async def _apply(self, db: Db, unflushed: Callable[[], Sequence[Sequence[Op]]]) -> None:
        """Write what was applied since the last flush, up to what was while this was done.

        A new mark comes last: whoever opens the store at this moment, and has read it before, must
        not believe that nobody has written to it since.
        """
        applied = 0
        while True:
            for ops in unflushed()[applied:]:
                batch, _ = await batch_of(ops)
                await binding.write(db, batch)
                applied += 1
            if self._owner is not None:
                mark = mark_of(self._owner, self.openings)
                self._marks.add(mark)
                batch, _ = await batch_of([(keys.OWNER, mark)])
                await binding.write(db, batch)
            await binding.flush(db)
            if self._folder is not None:
                await self._folder.run(self._folder.folder.sync_all)
            if applied == len(unflushed()):
                return
