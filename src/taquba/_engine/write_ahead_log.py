"""The write-ahead log as objects of a store: looked at, and mended where that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from slatedb.uniffi import (
    AdminBuilder,
    ObjectStore,
    RowEntry,
    SlateDbWalReader,
    SlateDbWalReaderOptions,
    VersionedManifest,
)

from taquba._engine.object_store import connect_engine
from taquba._engine.read_only import looking_once
from taquba._engine.reads import bounded
from taquba._engine.wal_check import (
    DIGITS,
    FOLDER,
    SUFFIX,
    Damage,
    Log,
    emptied,
    emptied_at_end,
    hole,
    loss,
    object_name,
)
from taquba._model import keys
from taquba._model.errors import StoreError
from taquba._objects.location import StoreLocation
from taquba._objects.space import ObjectSpace

_log: Final = logging.getLogger(__name__)

_LOOKS: Final = (0.1, 0.3, 1.0)
"""Seconds between looks at what seems to be damaged: nothing is refused because of one answer."""

_CONCURRENT_READS: Final = 8

_READ_SECONDS: Final = (1.0, 4.0)


class WriteAheadLog:
    """The log of one store, seen with the settings and credentials with which it was connected."""

    def __init__(self, location: StoreLocation, store: ObjectStore, objects: ObjectSpace) -> None:
        self._location = location
        self._store = store
        self._objects = objects

    @property
    def objects(self) -> ObjectSpace:
        """All objects of the store."""
        return self._objects

    @classmethod
    async def connect(
        cls, location: StoreLocation, store: ObjectStore | None = None
    ) -> WriteAheadLog:
        """Connect to it, by the environment as it is now; sends no request."""
        if store is None:
            store = await asyncio.to_thread(connect_engine, location, read_only=True)
        return cls(location, store, await ObjectSpace.open(location, fsync=True))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._objects.close()

    async def manifest(self) -> VersionedManifest | None:
        """The newest manifest; None where there is no database.

        Raises:
            StoreError: The store cannot be read.
        """
        admin = AdminBuilder(self._location.path, self._store).build()
        what = f"reading the manifest of {self._location.url}"
        return await bounded(admin.read_manifest(None), what)

    async def look(self) -> Log:
        """See what is there; a few requests, which change nothing.

        Raises:
            StoreError: The store cannot be read.
        """
        # Listed first: what is missing then was not removed for being in tables, as the manifest
        # that is read afterwards knows them.
        sizes = await self._list()
        manifest = await self.manifest()
        if manifest is None:
            return Log(0, 0, 0, {})
        replayed = manifest.replay_after_wal_id
        live = {number: size for number, size in sizes.items() if number > replayed}
        return Log(manifest.writer_epoch, replayed, manifest.last_l0_seq, live)

    async def damage(self, log: Log) -> Damage | None:
        """What the log has lost, or None; looks closer where there are empty objects.

        Raises:
            StoreError: The store cannot be read.
        """
        lost = loss(log)
        if lost is None and log.empty_at_end():
            async with looking_once(self._location) as newest:
                lost = emptied_at_end(log, await newest.get(keys.OWNER))
        if lost is not None:
            return lost
        beside = {number for pair in log.around_empty() for number in pair if number is not None}
        if not beside:
            return None
        # Rows are taken apart in Python, all of an object at once: not on the caller's event loop.
        reading = self._read_sequences(sorted(beside))
        return emptied(log, await asyncio.to_thread(asyncio.run, reading))

    async def trouble(self) -> Damage | None:
        """What the next owner would find: damage, or a hole that it mends."""
        log = await self.look()
        return await self.damage(log) or hole(log)

    async def make_whole(self, *, written_by_others: bool = True) -> Log:
        """Look at the log that an owner is about to read again, and mend what may be mended.

        Args:
            written_by_others: Whether to see that no object was emptied, too.

        Raises:
            StoreError: The log has lost commits, which several looks have confirmed; or the store
                cannot be read or written.
        """
        pauses = iter(_LOOKS)
        while True:
            log = await self.look()
            damage = await self.damage(log) if written_by_others else loss(log)
            if damage is None:
                break
            pause = next(pauses, None)
            if pause is None:
                raise damage.as_error(self._location)
            await asyncio.sleep(pause)
        for number in log.holes():
            await self._mend(object_name(number))
        return log

    async def broken(self) -> str | None:
        """The file that cannot be read, of those that an opening reads first; None without one."""
        try:
            await self.manifest()
        except StoreError:
            return max(await self._names("manifest"), default=None)
        store = f"reading the log of {self._location.url}"
        reader = SlateDbWalReader.with_options(
            self._location.path,
            self._store,
            SlateDbWalReaderOptions(max_buffered_bytes=1, max_fetch_tasks=1),
        )
        log = await self.look()
        for number in sorted(number for number, size in log.sizes.items() if size):
            try:
                await bounded(_first_rows(reader, number), store)
            except StoreError:
                return object_name(number)
        return max(await self._names("compactions"), default=None)

    async def _names(self, folder: str) -> list[str]:
        async with aclosing(self._objects.list(folder)) as pages:
            return [found.key async for page in pages for found in page]

    async def _mend(self, name: str) -> None:
        made = await self._objects.create(name, b"")
        # Whether it was made is for the store to show, not to say.
        found = await self._objects.get(name)
        if found is None:
            raise StoreError(
                f"{self._location.url}: the write-ahead log has a hole at {name}, and the store "
                "does not keep what is written there; open it again",
            )
        _log.warning(
            "%s: the write-ahead log had a hole at %s, where nothing was acknowledged: %s",
            self._location.url,
            name,
            "an owner that was being fenced has filled it"
            if found
            else f"an empty object fills it now{'' if made else ' (somebody else made it)'}",
        )

    async def _list(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        async with aclosing(self._objects.list(FOLDER)) as pages:
            async for page in pages:
                for found in page:
                    stem = found.key.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
                    if len(stem) == DIGITS and stem.isdigit():
                        sizes[int(stem)] = found.size
        return sizes

    async def _read_sequences(self, numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The first and the last sequence number of each object."""
        options = SlateDbWalReaderOptions(max_buffered_bytes=1, max_fetch_tasks=1)
        reader = SlateDbWalReader.with_options(self._location.path, self._store, options)
        limit = asyncio.Semaphore(_CONCURRENT_READS)

        async def read(number: int) -> tuple[int, tuple[int, int]]:
            what = f"{object_name(number)} of {self._location.url}"
            async with limit:
                sequences = [row.seq for row in await _rows_of(reader, number, what)]
            if not sequences:
                raise StoreError(f"{what} cannot be read; open the store again")
            return number, (min(sequences), max(sequences))

        return dict(await asyncio.gather(*map(read, numbers)))


async def _rows_of(reader: SlateDbWalReader, number: int, what: str) -> Sequence[RowEntry]:
    # The reader takes an object that it does not find for one that is still to come, and asks ever
    # more seldom: it is given up early, at first.
    for seconds in _READ_SECONDS:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await bounded(_first_rows(reader, number), f"reading {what}")
    return await bounded(_first_rows(reader, number), f"reading {what}")


async def _first_rows(reader: SlateDbWalReader, number: int) -> Sequence[RowEntry]:
    found = await (await reader.iterator(number)).next()
    return [] if found is None else found.rows
