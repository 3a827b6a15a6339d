"""`QueueReader`: a read-only handle on a store, for any process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from taquba._engine.read_only import Mode, ReadOnlyEngine, looking_once
from taquba._interface.store import ReadableStore
from taquba._model import keys, validate
from taquba._model.clock import Clock, SystemClock, from_ms
from taquba._model.codec import decode_counters, decode_store_id
from taquba._model.errors import InvalidArgument, QueueClosed, StoreNotInitialized
from taquba._model.place import Place, refuse
from taquba._model.records import (
    Counters,
    InboxStats,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    K,
    KvPage,
    OwnerSigns,
    QueueStats,
    RejectedBatch,
)
from taquba._model.resources import ClosedAtExit, Opening
from taquba._model.validate import Duration, KvKey
from taquba._objects.location import StoreLocation
from taquba._objects.payloads import PayloadReads
from taquba._objects.space import ObjectSpace
from taquba._objects.user_objects import ReadOnlyObjects
from taquba._queue import inbox_listings, key_values, listings, presence
from taquba._queue.opening import find_store, read_stamp


class QueueReader(ReadableStore, ClosedAtExit):
    """Reads a store that an owner may have open, here or in another process; never fences it.

    Each call sees only whole commits, as of the reader's newest look at the store, which lags
    behind by at most `poll_interval`. Make one with `QueueReader.open`. Every method raises
    `QueueClosed` after `close`, and `StoreError` when the store fails or does not answer.
    """

    def __init__(
        self,
        engine: ReadOnlyEngine,
        location: StoreLocation,
        objects: ObjectSpace,
        store_id: str,
    ) -> None:
        """Internal: use `QueueReader.open`."""
        self._engine = engine
        self._location = location
        self._space = objects
        self._payloads = PayloadReads(objects, store_id)
        self._objects = ReadOnlyObjects(objects, store_id, self._check)
        self._place = Place()
        self._clock = SystemClock()
        self._closed = False

    @staticmethod
    def open(
        url: str | os.PathLike[str],
        *,
        mode: Mode = "checkpoint",
        poll_interval: Duration = 1,
        payload_url: str | os.PathLike[str] | None = None,
    ) -> Opening[QueueReader]:
        """Open a store for reading; ``await`` it, or use it with ``async with``.

        Args:
            url: As for `Queue.open`.
            mode: ``"checkpoint"`` pins the data that it reads, so that no read fails while the
                owner cleans up, and writes a small checkpoint to the store. The checkpoint is
                removed on close, and expires within a minute (or four poll intervals) if the reader
                dies. ``"follow_latest"`` writes nothing to the store; a long scan may need to be
                repeated.
            poll_interval: How often to look for new commits, seconds.
            payload_url: As for `Queue.open`: where the owner keeps large payloads.

        Raises:
            StoreNotInitialized: No owner ever opened a queue there.
            IncompatibleStore: The store was written in another layout, or not by taquba.
            StoreError: The store cannot be reached or read.
        """
        if mode not in get_args(Mode):
            raise InvalidArgument(f"mode must be 'checkpoint' or 'follow_latest'; got {mode!r}")
        poll_ms = validate.duration_ms(poll_interval, "poll_interval", minimum=1)
        location = StoreLocation.parse(url)
        return Opening(_open(location, mode, poll_ms, location.for_payloads(payload_url)))

    @property
    def clock(self) -> Clock:
        return self._clock

    async def close(self) -> None:
        """Close the reader. Idempotent."""
        self._place.check()
        if not self._closed:
            self._closed = True
            await self._engine.close()
            await self._space.close()

    async def stats(self, queue: str) -> QueueStats:
        row = await (await self._reads()).get(keys.stats(validate.queue_name(queue)))
        return QueueStats(*(Counters() if row is None else decode_counters(queue, row)))

    async def list_queues(self) -> list[str]:
        names: list[str] = []
        async for rows in (await self._reads()).scan_prefix(keys.STATS):
            names += [keys.stats_queue(key) for key, _ in rows]
        return sorted(names)

    async def get_job(self, job_id: str) -> JobRecord | None:
        record = await listings.get_job(
            await self._reads(), self._payloads, validate.job_id(job_id)
        )
        if record is None or not await self._left_since([record]):
            return record
        return None

    async def list_jobs(
        self,
        queue: str,
        status: JobStatus | str,
        cursor: str | None = None,
        limit: int = 100,
        *,
        payloads: bool = True,
    ) -> JobPage:
        page = await listings.list_jobs(
            await self._reads(),
            self._payloads if payloads else None,
            validate.queue_name(queue),
            listings.known_status(status),
            cursor,
            limit,
        )
        left: set[str] = await self._left_since(page.jobs) if payloads else set()
        kept = [job for job in page.jobs if job.id not in left]
        return JobPage(kept, page.next_cursor, page.unreadable)

    async def attempt_history(self, job_id: str) -> list[JobAttempt]:
        return await listings.attempt_history(await self._reads(), validate.job_id(job_id))

    async def kv_get(self, key: KvKey, *, durable: bool = False) -> bytes | None:
        del durable  # It sees nothing else.
        return await key_values.get(await self._reads(), key)

    async def kv_scan(self, prefix: K, cursor: str | None = None, limit: int = 100) -> KvPage[K]:
        return await key_values.scan(await self._reads(), prefix, cursor, limit)

    async def writer_heartbeat(self) -> datetime | None:
        """Return the newest sign of life of an owner, by its clock; None if there is none.

        Only owners that were opened with a `heartbeat_interval` give signs of life.
        """
        beat = await (await self._reads()).get(keys.HEARTBEAT)
        return None if beat is None else from_ms(int(beat))

    async def last_store_activity(self) -> datetime | None:
        """Return when the newest change of any job was committed, by the machine's clock."""
        newest = await (await self._reads()).newest_write(keys.STATS)
        return None if newest is None else from_ms(newest)

    async def detect_owner(self, patience: Duration = 3) -> OwnerSigns:
        """Find out whether the store has a living owner, which opening it would fence.

        The store records a clean close. The owner of a local folder is known to every process on
        the same machine. If neither helps, the store is watched for changes and heartbeats; an
        owner that makes none cannot be seen.

        Args:
            patience: How long to watch, seconds. Choose it longer than the owner's
                `heartbeat_interval` and this reader's `poll_interval`.
        """
        patience_ms = validate.duration_ms(patience, "patience")
        return await presence.detect_owner(await self._reads(), self._location, patience_ms)

    async def inbox_stats(self) -> InboxStats:
        await self._enter()
        return await inbox_listings.stats(self._location)

    async def rejected_batches(self, limit: int = 100) -> list[RejectedBatch]:
        await self._enter()
        return await inbox_listings.rejected(self._location, limit)

    @property
    def objects(self) -> ReadOnlyObjects:
        return self._objects

    async def _left_since(self, records: Sequence[JobRecord]) -> set[str]:
        """Those of `records` that are gone, as a newer look shows, and their payloads with them."""
        bare = [record for record in records if listings.lacks_payload(record)]
        if not bare:
            return set()
        async with looking_once(self._location) as newest:
            refs = await listings.payload_refs(newest, [record.id for record in bare])
        return {r.id for r, ref in zip(bare, refs, strict=True) if ref != r.payload_ref}

    def _check(self) -> None:
        self._place.check()
        if self._closed:
            raise QueueClosed

    async def _reads(self) -> ReadOnlyEngine:
        """The engine, for a call that is awaited."""
        await self._enter()
        return self._engine

    async def _enter(self) -> None:
        self._place.check()
        if self._closed:
            await refuse(QueueClosed())


async def _open(
    location: StoreLocation, mode: Mode, poll_ms: int, objects_at: StoreLocation
) -> QueueReader:
    if not (await find_store(location)).database:
        raise StoreNotInitialized(location.url)
    engine = await ReadOnlyEngine.open(location, mode, poll_ms)
    try:
        stamp = await read_stamp(engine, location)
        if stamp is None:
            raise StoreNotInitialized(location.url)
        objects = await ObjectSpace.open(objects_at, fsync=False)
    except BaseException:
        await engine.close()
        raise
    return QueueReader(engine, location, objects, decode_store_id(stamp))
