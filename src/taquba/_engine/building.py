"""How the storage engine is set up, and opened in spite of an odd answer of the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final, NamedTuple

from slatedb.uniffi import (
    Db,
    DbBuilder,
    DbCache,
    DefaultMetricsRecorder,
    Error,
    MokaCacheOptions,
    ObjectStore,
    Settings,
    SstBlockSize,
)

from taquba._engine.again import A_WHILE, again
from taquba._engine.damage import damage_in
from taquba._engine.reads import bounded, message_of
from taquba._engine.write_ahead_log import WriteAheadLog
from taquba._model import keys
from taquba._model.errors import StoreError, StoreFenced
from taquba._objects.disk import hindrance, intruder
from taquba._objects.location import StoreLocation

_SETTINGS: Final[dict[str, object]] = {
    # Commits flush the WAL themselves, when somebody waits for it.
    "flush_interval": None,
    # These bound what a restart replays and what the owner holds in memory, where a small row takes
    # three times its size until it is written as a table.
    "l0_sst_size_bytes": 8 * 1024 * 1024,
    "max_unflushed_bytes": 64 * 1024 * 1024,
    # Writing pauses at this many of these tables: not while one large compaction runs.
    "l0_max_ssts": 64,
    "l0_max_ssts_per_key": 64,
    # A flush on demand makes one WAL object each: collect them early and often.
    "garbage_collector_options.wal_options.interval": "10s",
    "garbage_collector_options.wal_options.min_age": "20s",
    "garbage_collector_options.manifest_options.interval": "60s",
    "garbage_collector_options.compacted_options.interval": "60s",
    "garbage_collector_options.compactions_options.interval": "60s",
    # Compactions read ahead from every table they merge, in every part they are split into. What
    # they hold meanwhile would grow with the store: 4 parts of 4 reads of 2 MiB, by default.
    "compactor_options.worker.max_subcompactions": 1,
    # A table waits in memory until the disk has taken it, and the next one is filled meanwhile.
    "compactor_options.worker.max_sst_size": 16 * 1024 * 1024,
    "compactor_options.worker.max_fetch_tasks": 2,
    "compactor_options.worker.bytes_to_fetch": 512 * 1024,
}

_BUCKET_SETTINGS: Final[dict[str, object]] = {
    # Every look costs requests, also those of an owner that has nothing to do. Commits are fenced
    # by the write-ahead objects; the manifest only tells an owner without commits.
    "manifest_poll_interval": "5s",
    "compactor_options.poll_interval": "30s",
    "compactor_options.worker.compactions_poll_interval": "30s",
    "garbage_collector_options.wal_options.interval": "60s",
    "garbage_collector_options.manifest_options.interval": "300s",
    "garbage_collector_options.compacted_options.interval": "300s",
    "garbage_collector_options.compactions_options.interval": "300s",
    # A request costs the same, however much it carries.
    "compactor_options.worker.max_sst_size": 32 * 1024 * 1024,
    "compactor_options.worker.bytes_to_fetch": 2 * 1024 * 1024,
    # The compactor looks seldom: what is written meanwhile must stay under the limit of tables.
    "l0_sst_size_bytes": 16 * 1024 * 1024,
}

OPEN_TIMEOUT: Final = 120.0
"""Seconds for opening, which reads what the former owner did not write as tables. That somebody
answers at all is known by then."""

_SHUTDOWN_SECONDS: Final = 2.0

_BLOCK_SIZE: Final = SstBlockSize.BLOCK16_KIB
"""Of rows, in a table: the index has an entry for each block, so a fourth of those it had with the
engine's 4 KiB. Claims read no rows, and listings read many that follow each other."""

_BLOCK_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Rows of tables. Claims read nothing, so they serve look-ups and listings only."""
_FILTER_CACHE_BYTES: Final = 64 * 1024 * 1024
"""Filters and indexes of tables, which every look-up of a new key asks.

They have a cache of their own: in one shared with rows, the filters of large tables were seen to be
read again for look-up after look-up, 10 to 40 ms each, once a store had some hundred MB.
"""

_FOLDER_CACHE_IDLE_MS: Final = 60_000
"""After which a folder's caches forget what nobody asked for.

The engine leaves there what it had of tables that were merged away: most of 45 MB was theirs
after a bulk of 1,200,000 inputs. What is needed again is soon read from a folder; a bucket
would take requests for it.
"""


class Built(NamedTuple):
    """An open database.

    Attributes:
        db: Its handle.
        before: How often it had been opened for writing before.
        mark: Of the owner that has committed last; None in a new database.
    """

    db: Db
    before: int
    mark: bytes | None


async def build(
    location: StoreLocation,
    store: ObjectStore,
    log: WriteAheadLog,
    recorder: DefaultMetricsRecorder | None = None,
) -> Built:
    """Open the database of a location for writing, which fences any other owner.

    The log is looked at before each try: what an odd answer to the fencing write leaves behind
    would stop every later one.

    Raises:
        StoreFenced: Somebody else opened it at the same time.
        StoreError: It cannot be opened, or its log has lost commits.
    """
    others = True

    async def attempt() -> Built:
        nonlocal others
        before = await _make_whole(location, log, written_by_others=others)
        # Whatever this attempt comes to, the fence at the end of the log may be its own.
        others = False
        return await build_once(location, store, log, recorder, before)

    try:
        return await again(attempt, f"opening {location.url}", A_WHILE)
    except StoreError as error:
        named = await _named(location, log, error)
        if named is error:
            raise
        raise named from error.__cause__


async def _named(location: StoreLocation, log: WriteAheadLog, error: StoreError) -> StoreError:
    """A failure to open, with the file or the fault of the disk that is to blame."""
    if not isinstance(error.__cause__, Error):
        return error
    if location.folder is not None and damage_in(str(error)) is None:
        problem = await asyncio.to_thread(hindrance, location.folder)
        return error if problem is None else problem.as_error(location)
    damage = damage_in(message_of(error.__cause__))
    if damage is None:
        return error
    if "compacted/" in damage:
        # A table, of which the opening has read something.
        return StoreError(f"{location.url}: {error}", permanent=True)
    with contextlib.suppress(StoreError):
        name = await log.broken()
        if name is not None and name not in str(error):
            return StoreError(f"{location.url}: {name} cannot be read: {error}", permanent=True)
    return StoreError(f"{location.url}: {error}", permanent=True)


async def look_again(location: StoreLocation, log: WriteAheadLog, opened: int) -> int:
    """How often a database was opened, whose log only this owner has written; and mend the log.

    Raises:
        StoreFenced: It was opened more than `opened` times: somebody else did, and is not fenced.
    """
    before = await _make_whole(location, log, written_by_others=False)
    if before > opened:
        raise StoreFenced
    return before


async def _make_whole(
    location: StoreLocation, log: WriteAheadLog, *, written_by_others: bool
) -> int:
    """Have the engine find what it needs; returns how often the database was opened before."""
    if location.folder is not None:
        strange = await asyncio.to_thread(intruder, location.folder)
        if strange is not None:
            raise strange.as_error(location)
    if location.in_memory:
        return 0
    return (await log.make_whole(written_by_others=written_by_others)).epoch


async def build_once(
    location: StoreLocation,
    store: ObjectStore,
    log: WriteAheadLog,
    recorder: DefaultMetricsRecorder | None,
    before: int,
) -> Built:
    """Open a database that was looked at, in one try.

    Raises:
        StoreFenced: Somebody else opened it at the same time.
        StoreError: It cannot be opened now.
    """
    builder = DbBuilder(location.path, store)
    builder.with_settings(_settings(location))
    builder.with_db_cache(_cache(location), 0)
    builder.with_sst_block_size(_BLOCK_SIZE)
    if recorder is not None:
        builder.with_metrics_recorder(recorder)
    try:
        db = await bounded(builder.build(), f"opening {location.url}", OPEN_TIMEOUT)
    except StoreFenced as error:
        # One more than this one may be this one: the answer to a write that landed was odd. If it
        # was another opening at the same time, whichever is tried last is the owner.
        if await was_opened_since(log, before + 1):
            raise
        raise StoreError(
            f"{location.url}: the store said that another owner opened it, and nobody did; "
            "open it again"
        ) from error
    try:
        return Built(db, before, await bounded(db.get(keys.OWNER), f"opening {location.url}"))
    except BaseException:
        await shut_down(db)
        raise


async def shut_down(db: Db) -> None:
    """Have an engine end its tasks, so far as it does so soon: the next one fences them anyway."""
    with contextlib.suppress(Error, TimeoutError):
        async with asyncio.timeout(_SHUTDOWN_SECONDS):
            await db.shutdown()


async def was_opened_since(log: WriteAheadLog, before: int) -> bool:
    """Whether an owner opened the database after the one that found it opened `before` times."""
    manifest = await log.manifest()
    return manifest is not None and manifest.writer_epoch > before + 1


def _settings(location: StoreLocation) -> Settings:
    settings = Settings.default()
    chosen = _SETTINGS if location.bucket is None else _SETTINGS | _BUCKET_SETTINGS
    for name, value in chosen.items():
        settings.set(name, json.dumps(value))
    settings.set("object_store_max_retries", json.dumps(location.retries))
    if location.folder is not None:
        # Boundary files need conditional updates, which the engine's local store does not have:
        # with them the collector of manifests would stop for ever after its first round. They keep
        # an owner that was suspended for longer than the collector's `min_age` from writing a
        # manifest whose number was used and removed meanwhile. Nothing acknowledged is lost with
        # one: the write-ahead files are fenced by files that the collector keeps.
        settings.set("garbage_collector_options.boundary_files_enabled", "false")
    return settings


def _cache(location: StoreLocation) -> DbCache:
    idle = None if location.folder is None else _FOLDER_CACHE_IDLE_MS
    return DbCache.new_split_cache(
        _cache_of(_BLOCK_CACHE_BYTES, idle), _cache_of(_FILTER_CACHE_BYTES, idle)
    )


def _cache_of(size: int, time_to_idle: int | None) -> DbCache:
    options = MokaCacheOptions(max_capacity=size, time_to_live=None, time_to_idle=time_to_idle)
    return DbCache.new_moka_cache(options)
