"""Whether the write-ahead log is whole, looked at before the engine reads it again.

The engine numbers its write-ahead objects without gaps: an owner writes the next one only after the
former one was stored, and an owner that opens the store first makes an empty one, its *fence*. Two
things break that, and the engine does not tell them apart:

- A store that answers "exists already" to a fencing write without having stored anything. The
  engine then fences with the next number, and stops at the hole whenever it reads the log again.
- An object that was deleted or emptied. The engine may skip it without a word.

The rule that tells them apart: an owner that writes commits has read or written every object below.
So a hole below commits is damage. A hole above the last commits is a number at which nothing was
acknowledged: an empty object, created only if there is none, mends it. An owner that is still alive
and writes there at that moment either comes first, and what it stored is read, or is refused like
any other owner that was fenced.

Sequence numbers of commits have no gaps either. So commits are missing where those on both sides of
an empty object do not follow each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from slatedb.uniffi import (
    AdminBuilder,
    ObjectStore,
    SlateDbWalReader,
    SlateDbWalReaderOptions,
    VersionedManifest,
)

from taquba._model.errors import StoreError
from taquba._store.engine_objects import connect_engine
from taquba._store.location import StoreLocation
from taquba._store.objects import ObjectSpace
from taquba._store.reads import bounded

_log: Final = logging.getLogger(__name__)

_FOLDER: Final = "wal"
_SUFFIX: Final = ".sst"
_DIGITS: Final = 20

_LOOKS: Final = (0.1, 0.3, 1.0)
"""Seconds between looks at what seems to be damaged: nothing is refused because of one answer."""

_CONCURRENT_READS: Final = 8


class Log(NamedTuple):
    """The write-ahead objects that the next owner reads again, as one look saw them.

    Attributes:
        epoch: How often the store was opened for writing so far.
        replayed: The number up to which all is in tables.
        tables_seq: The sequence number of the last commit in tables.
        sizes: Number of each object above `replayed`, and its bytes.
    """

    epoch: int
    replayed: int
    tables_seq: int
    sizes: Mapping[int, int]

    @property
    def last_commits(self) -> int:
        """The last object that holds commits."""
        return max((number for number, size in self.sizes.items() if size), default=self.replayed)

    def missing(self) -> list[int]:
        """Numbers without an object, below one that is there."""
        last = max(self.sizes, default=self.replayed)
        return [number for number in range(self.replayed + 1, last) if number not in self.sizes]

    def lost(self) -> list[int]:
        """Missing ones that held commits."""
        return [number for number in self.missing() if number < self.last_commits]

    def holes(self) -> list[int]:
        """Missing ones that never were there."""
        return [number for number in self.missing() if number > self.last_commits]

    def around_empty(self) -> Iterator[tuple[int | None, int]]:
        """The objects with commits on both sides of empty ones; None for the tables."""
        before: int | None = None
        empty = False
        for number in sorted(self.sizes):
            if not self.sizes[number]:
                empty = True
                continue
            if empty:
                yield before, number
            before, empty = number, False


class Damage(NamedTuple):
    """What is wrong with a log, and what to do about it."""

    what: str
    remedy: str

    def as_error(self, location: StoreLocation) -> StoreError:
        return StoreError(f"{location.url}: {self.what}; {self.remedy}", permanent=True)


_RESTORE: Final = (
    "restore that file from a backup, or from an older version of it if the bucket keeps them; "
    "otherwise restore the whole store, or start a new one"
)


def object_name(number: int) -> str:
    """The key of a write-ahead object, below the store's location."""
    return f"{_FOLDER}/{number:0{_DIGITS}d}{_SUFFIX}"


async def look_at_manifest(location: StoreLocation) -> VersionedManifest | None:
    """The newest manifest; None where there is no database.

    Raises:
        StoreError: The store cannot be read.
    """
    store = await asyncio.to_thread(connect_engine, location, read_only=True)
    admin = AdminBuilder(location.path, store).build()
    return await bounded(admin.read_manifest(None), f"reading the manifest of {location.url}")


async def look_at_log(location: StoreLocation) -> Log:
    """See what is there; a few requests, which change nothing.

    Raises:
        StoreError: The store cannot be read.
    """
    # Listed first: what is missing then was not removed for being in tables, as the manifest that
    # is read afterwards knows them.
    sizes = await _list(location)
    manifest = await look_at_manifest(location)
    if manifest is None:
        return Log(0, 0, 0, {})
    replayed = manifest.replay_after_wal_id
    live = {number: size for number, size in sizes.items() if number > replayed}
    return Log(manifest.writer_epoch, replayed, manifest.last_l0_seq, live)


async def find_damage(location: StoreLocation, log: Log) -> Damage | None:
    """What the log has lost, or None; reads what lies beside empty objects.

    Raises:
        StoreError: The store cannot be read.
    """
    if lost := log.lost():
        what = _named(lost, "is missing", "are missing")
        return Damage(f"{what}, and held acknowledged changes: later ones are there", _RESTORE)
    around = list(log.around_empty())
    if not around:
        return None
    store = await asyncio.to_thread(connect_engine, location, read_only=True)
    # Rows are taken apart in Python, all of an object at once: not on the caller's event loop.
    reading = _read_sequences(location, store, around)
    spans = await asyncio.to_thread(asyncio.run, reading)
    for before, after in around:
        first, _ = spans[after]
        last = log.tables_seq if before is None else max(log.tables_seq, spans[before][1])
        if first > last + 1:
            below = log.replayed if before is None else before
            empty = [number for number in range(below + 1, after) if number in log.sizes]
            what = _named(empty, "is empty, and held", "are empty, and one of them held")
            return Damage(f"{what} the acknowledged changes {last + 1} to {first - 1}", _RESTORE)
    return None


def hole_in(log: Log) -> Damage | None:
    """The hole that a refused fencing write has left, or None."""
    holes = log.holes()
    if not holes:
        return None
    what = _named(holes, "was never written", "were never written")
    return Damage(
        f"{what}, though a later one was; nothing that was acknowledged is missing",
        "open the store for writing, which mends it",
    )


async def make_whole(location: StoreLocation) -> Log:
    """Look at the log that an owner is about to read again, and mend what may be mended.

    Raises:
        StoreError: The log has lost commits, which several looks have confirmed; or the store
            cannot be read or written.
    """
    pauses = iter(_LOOKS)
    while (damage := await find_damage(location, log := await look_at_log(location))) is not None:
        pause = next(pauses, None)
        if pause is None:
            raise damage.as_error(location)
        await asyncio.sleep(pause)
    if holes := log.holes():
        await _mend(location, holes)
    return log


async def _mend(location: StoreLocation, holes: Sequence[int]) -> None:
    objects = await ObjectSpace.open(location, fsync=True)
    try:
        for number in holes:
            name = object_name(number)
            made = await objects.create(name, b"")
            # Whether it was made is for the store to show, not to say.
            found = await objects.get(name)
            if found is None:
                raise StoreError(
                    f"{location.url}: the write-ahead log has a hole at {name}, and the store "
                    "does not keep what is written there; open it again",
                )
            _log.warning(
                "%s: the write-ahead log had a hole at %s, where nothing was acknowledged: %s",
                location.url,
                name,
                "an owner that was being fenced has filled it"
                if found
                else f"an empty object fills it now{'' if made else ' (somebody else made it)'}",
            )
    finally:
        await objects.close()


async def _list(location: StoreLocation) -> dict[int, int]:
    objects = await ObjectSpace.open(location, fsync=False)
    sizes: dict[int, int] = {}
    try:
        async with aclosing(objects.list(_FOLDER)) as pages:
            async for page in pages:
                for found in page:
                    stem = found.key.removeprefix(f"{_FOLDER}/").removesuffix(_SUFFIX)
                    if len(stem) == _DIGITS and stem.isdigit():
                        sizes[int(stem)] = found.size
    finally:
        await objects.close()
    return sizes


async def _read_sequences(
    location: StoreLocation, store: ObjectStore, around: Sequence[tuple[int | None, int]]
) -> dict[int, tuple[int, int]]:
    """The first and the last sequence number of each object that is named."""
    options = SlateDbWalReaderOptions(max_buffered_bytes=1, max_fetch_tasks=1)
    reader = SlateDbWalReader.with_options(location.path, store, options)
    limit = asyncio.Semaphore(_CONCURRENT_READS)

    async def read(number: int) -> tuple[int, tuple[int, int]]:
        what = f"reading {object_name(number)} of {location.url}"
        async with limit:
            rows = await bounded(reader.iterator(number), what)
            found = await bounded(rows.next(), what)
        sequences = [row.seq for row in found.rows] if found is not None else []
        if not sequences:
            raise StoreError(f"{location.url}: {object_name(number)} cannot be read; open it again")
        return number, (min(sequences), max(sequences))

    numbers = {number for pair in around for number in pair if number is not None}
    return dict(await asyncio.gather(*map(read, numbers)))


def _named(numbers: Sequence[int], one: str, several: str) -> str:
    if len(numbers) == 1:
        return f"the write-ahead file {object_name(numbers[0])} {one}"
    first, last = object_name(numbers[0]), object_name(numbers[-1])
    return f"the write-ahead files {first} to {last} {several}"
