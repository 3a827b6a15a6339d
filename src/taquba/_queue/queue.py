"""`Queue`: the owner's handle on a store. Each method checks and delegates."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Unpack, cast

from taquba._interface.claim import Claim
from taquba._model import validate
from taquba._model.batch import MAX_BATCH_JOBS
from taquba._model.clock import Clock
from taquba._model.errors import InvalidArgument
from taquba._model.options import (
    EnqueueOptions,
    EnqueueRequest,
    QueueConfig,
    SettlementEffects,
    check_entries_of,
)
from taquba._model.own_tasks import LastTask
from taquba._model.records import (
    CancelOutcome,
    EnqueueResult,
    InboxStats,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    K,
    KvPage,
    Member,
    NackOutcome,
    QueueStats,
    RejectedBatch,
    WaitOutcome,
    WakeOutcome,
)
from taquba._model.resources import ClosedAtExit, Opening
from taquba._model.validate import Duration, KvKey
from taquba._objects.haste import Haste
from taquba._objects.location import StoreLocation
from taquba._objects.user_objects import Objects
from taquba._queue import (
    claims,
    control,
    enqueueing,
    inbox_listings,
    key_values,
    listings,
    loops,
    payload_reads,
    payload_writes,
    settling,
)
from taquba._queue.calls import serve_socket
from taquba._queue.intake import Inbox
from taquba._queue.members import Present, members
from taquba._queue.open_options import OpenOptions, OpenSettings
from taquba._queue.opening import closing_state, open_owner
from taquba._queue.owner import Owner, OwnersHandle

if TYPE_CHECKING:
    from taquba._line.server import SocketServer


def open_with(settings: OpenSettings) -> Opening[Queue]:
    """Open a store; see `Queue.open`."""
    return Opening(Queue._open(settings))  # pyright: ignore[reportPrivateUsage] - its own


class Queue(OwnersHandle, ClosedAtExit):
    """A durable job queue whose state lives in an object store.

    Only one process, the owner, has a store open at a time.
    A queue belongs to the event loop that opened it. Make one with `Queue.open`:

        async with Queue.open("./data") as queue:
            await queue.enqueue("emails", b"hello")

    Every method raises `QueueClosed` after `close`, `StoreFenced` once another owner opened the
    store, `ForkedError` in a forked child, `WrongEventLoop` from another loop or thread, and
    `StoreError` when the store fails or does not answer.
    """

    def __init__(self, owner: Owner) -> None:
        """Internal: use `Queue.open`."""
        self._owner = owner
        self._tasks: list[asyncio.Task[None]] = []
        self._inbox: Inbox | None = None
        self._socket: SocketServer | None = None
        self._present: Callable[[], list[Present]] = list
        """The other processes that take part."""
        self._haste = Haste(owner.loop)
        self._closing: asyncio.Task[None] | None = None

    @staticmethod
    def open(url: str | os.PathLike[str], **options: Unpack[OpenOptions]) -> Opening[Queue]:
        """Open a store for writing; ``await`` it, or use it with ``async with``.

        Another owner that is known to live is left alone: the opening raises `StoreOwned`, unless
        `take_over` is set. It is known in a folder of this machine, by its lock; in a bucket, if it
        is a `Service`; and in memory. Any other former owner is fenced: it commits nothing more.

        Jobs that were claimed return to pending at once. Unless the store was closed, they are
        suspects: each runs alone, and only if it then kills the process does that count as an
        attempt.

        Args:
            url: ``memory://`` (fresh), ``memory://name`` (shared by name in this process),
                ``file:///abs/path``, a plain path, ``s3://bucket/prefix``, ``gs://bucket/prefix``
                or ``az://container/prefix``; cloud credentials come from the environment.
            options: Settings of queues, the clock, the inbox and so on; see `OpenOptions`.

        Raises:
            InvalidArgument: The URL or a setting cannot be used, or OpenTelemetry was requested and
                is not installed.
            IncompatibleStore: The store was written in another layout.
            StoreOwned: Another owner has the store open, and `take_over` is not set. Nothing was
                written.
            StoreError: The store cannot be reached or written.
        """
        location = StoreLocation.parse(url)
        return open_with(OpenSettings.checked(location, **options))

    @staticmethod
    async def _open(settings: OpenSettings) -> Queue:
        queue = Queue(await open_owner(settings))
        try:
            await queue._begin(settings)
        except BaseException:
            await queue.close()
            raise
        return queue

    async def close(self) -> None:
        """Write all waiting changes, stop the background tasks, close the store. Idempotent."""
        if self._closing is None or not self._closing.done():
            self._owner.place.check()
        if self._closing is None or self._closing.cancelled():
            self._closing = LastTask(self._close(), self._haste.begin)
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        owner, haste = self._owner, self._haste
        if owner.committer.forsaken:
            haste.begin()
        if self._socket is not None:
            await haste.bound(self._socket.stop_listening())
        owner.closing()
        for task in self._tasks:
            task.cancel()
        await haste.bound(asyncio.gather(*self._tasks, return_exceptions=True))
        await haste.bound(owner.committer.close(lambda: closing_state(owner)))
        if self._socket is not None:
            # Other processes have their answers by now.
            await haste.bound(self._socket.close())
        await haste.bound(owner.payloads.close(hurried=haste.begun))
        if self._inbox is not None:
            await haste.bound(self._inbox.close())
        await haste.bound(owner.engine.close(hurried=haste.begun))
        haste.check()

    async def _begin(self, settings: OpenSettings) -> None:
        """Start the background tasks."""
        owner = self._owner
        running: dict[str, Callable[[], Awaitable[None]]] = {
            "scheduler": partial(loops.run_scheduler, owner, settings.recheck_ms),
            "reaper": partial(loops.run_reaper, owner, settings.reaper_ms),
            "retention": partial(loops.run_retention, owner, settings.recheck_ms),
            "orphan-sweep": partial(loops.run_orphan_sweep, owner),
            "engine-watch": partial(loops.watch_engine, owner),
        }
        if settings.heartbeat_ms is not None:
            running["heartbeat"] = partial(loops.run_heartbeat, owner, settings.heartbeat_ms)
        if owner.adoption is not None and owner.adoption.waits:
            running["adoption"] = owner.adoption.run
        for name, loop in running.items():
            self._run(name, loop)
        if settings.inbox is not None:
            self._inbox = await Inbox.open(owner, settings.inbox, fsync=settings.fsync)
            self._run("inbox", self._inbox.run)
        if settings.producer_socket:
            served = await serve_socket(owner, self, settings.location)
            if served is not None:
                self._socket = served.server
                self._present = served.holders.present
                self._run("members-watch", served.holders.watch)

    def _run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(loops.until_failure(self._owner, loop), name=f"taquba-{name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # Nothing, where it was this queue that closed.
            self._owner.forsaken()

    @property
    def clock(self) -> Clock:
        return self._owner.clock

    def config(self, queue: str) -> QueueConfig:
        self._owner.check()
        return self._owner.config(validate.queue_name(queue))

    # -- enqueue ----------------------------------------------------------------------------

    async def enqueue(
        self, queue: str, payload: bytes, **options: Unpack[EnqueueOptions]
    ) -> EnqueueResult:
        if not self._owner.admits():
            await self._owner.enter()
        request = EnqueueRequest(queue, payload, **options)
        (result,) = await enqueueing.enqueue(self._owner, (request,))
        return result

    async def enqueue_batch(
        self,
        requests: Iterable[EnqueueRequest],
        *,
        kv_expected: Mapping[KvKey, bytes | None] | None = None,
    ) -> list[EnqueueResult]:
        if not self._owner.admits():
            await self._owner.enter()
        batch = list(islice(requests, MAX_BATCH_JOBS + 1))
        if len(batch) > MAX_BATCH_JOBS:
            raise InvalidArgument(
                f"a batch may have at most {MAX_BATCH_JOBS} requests, which are one commit: "
                "enqueue them in several"
            )
        for request in batch:
            validate.instance(request, EnqueueRequest, "each request")
        check_entries_of(batch)
        expected = None if kv_expected is None else validate.kv_expected(kv_expected)
        return await enqueueing.enqueue(self._owner, batch, expected) if batch else []

    def next_job_id(self) -> str:
        self._owner.check()
        return self._owner.ids.reserve()

    # -- claim and settle -------------------------------------------------------------------

    async def claim_batch(
        self,
        queue: str,
        max_jobs: int,
        *,
        lease: Duration | None = None,
        wait: Duration | None = None,
    ) -> list[Claim]:
        owner = self._owner
        if not owner.admits():
            await owner.enter()
        found = await payload_reads.claim_for(
            owner, owner.about.id, queue, max_jobs, lease=lease, wait=wait
        )
        return cast("list[Claim]", found)

    async def wait_for_jobs_on(self, *queues: str, timeout: Duration) -> bool:
        owner = self._owner
        await owner.enter()
        if not queues:
            raise InvalidArgument("wait_for_jobs_on needs at least one queue name")
        states = [owner.queue(validate.queue_name(name)) for name in queues]
        timeout_ms = validate.duration_ms(timeout, "timeout")
        return await claims.wait_until_ready(owner, states, timeout_ms)

    async def ack(
        self, claim: Claim, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        if not self._owner.admits():
            await self._owner.enter()
        return await settling.ack(self._owner, claim, effects)

    async def nack(
        self, claim: Claim, error: str, effects: SettlementEffects | None = None
    ) -> NackOutcome:
        if not self._owner.admits():
            await self._owner.enter()
        return await settling.nack(self._owner, claim, error, effects)

    async def dead_letter(
        self, claim: Claim, reason: str, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        await self._owner.enter()
        return await settling.dead_letter(self._owner, claim, reason, effects)

    async def renew_lease(self, claim: Claim, extension: Duration) -> datetime:
        await self._owner.enter()
        extension_ms = validate.duration_ms(extension, "extension", minimum=1)
        return claims.renew_for_caller(self._owner, claim, extension_ms)

    async def lease_expiry(self, claim: Claim | str) -> datetime | None:
        owner = self._owner
        await owner.enter()
        lease = (
            owner.leases.get(validate.job_id(claim))
            if isinstance(claim, str)
            else claims.lease_in_force(owner, claim)
        )
        return None if lease is None else claims.expiry(owner, lease)

    # -- operate ----------------------------------------------------------------------------

    async def cancel(self, job_id: str, effects: SettlementEffects | None = None) -> CancelOutcome:
        await self._owner.enter()
        return await control.cancel(self._owner, validate.job_id(job_id), effects)

    async def wake_scheduled(
        self, job_id: str, payload: bytes | None = None, *, if_unbegun: bool = False
    ) -> WakeOutcome:
        await self._owner.enter()
        if payload is not None:
            payload = validate.wake_payload(payload)
        return await control.wake_scheduled(
            self._owner, validate.job_id(job_id), payload, if_unbegun=if_unbegun
        )

    async def requeue_dead(self, job_id: str) -> None:
        await self._owner.enter()
        await control.requeue_dead(self._owner, validate.job_id(job_id))

    async def purge_dead(self, job_id: str) -> None:
        await self._owner.enter()
        await control.purge_dead(self._owner, validate.job_id(job_id))

    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        if not self._owner.admits():
            await self._owner.enter()
        timeout_ms = validate.duration_ms(timeout, "timeout")
        return await control.wait_for_completion(self._owner, validate.job_id(job_id), timeout_ms)

    async def members(self) -> list[Member]:
        await self._owner.enter()
        return members(self._owner, self._present())

    async def reap_now(self) -> int:
        """Take back every job whose lease has expired; returns how many."""
        await self._owner.enter()
        return (await loops.reap(self._owner)).total()

    async def promote_scheduled_now(self) -> int:
        """Move every scheduled job that is due to pending; returns how many."""
        await self._owner.enter()
        return await loops.promote_due(self._owner)

    async def sweep_now(self) -> int:
        """Remove done and dead jobs whose retention is over; returns how many.

        Payload objects that a crash left without a job are also removed, an hour after their
        upload.
        """
        await self._owner.enter()
        await payload_writes.sweep_orphans(self._owner)
        return await loops.sweep(self._owner)

    async def ingest_now(self) -> int:
        """Take the batches in the store's inbox without waiting for the next look at it.

        Returns:
            How many jobs are new; 0 if the queue was opened without an inbox.
        """
        await self._owner.enter()
        take = self._owner.take_inbox
        return 0 if take is None else await take()

    # -- caller-owned entries ---------------------------------------------------------------

    async def kv_get(self, key: KvKey, *, durable: bool = False) -> bytes | None:
        if not self._owner.admits():
            await self._owner.enter()
        value = await key_values.get(self._owner.engine, key)
        if durable:
            await key_values.until_durable(self._owner, validate.kv_key(key))
        return value

    async def kv_put(self, key: KvKey, value: bytes) -> None:
        if not self._owner.admits():
            await self._owner.enter()
        await key_values.write(self._owner, key, validate.kv_value(key, value))

    async def kv_delete(self, key: KvKey) -> None:
        await self._owner.enter()
        await key_values.write(self._owner, key, None)

    async def kv_compare_put(self, key: KvKey, expected: bytes | None, value: bytes) -> bool:
        await self._owner.enter()
        return await key_values.compare_write(
            self._owner, key, expected, validate.kv_value(key, value)
        )

    async def kv_compare_delete(self, key: KvKey, expected: bytes) -> bool:
        await self._owner.enter()
        validate.kv_value(key, expected)
        return await key_values.compare_write(self._owner, key, expected, None)

    async def kv_scan(self, prefix: K, cursor: str | None = None, limit: int = 100) -> KvPage[K]:
        await self._owner.enter()
        return await key_values.scan(self._owner.engine, prefix, cursor, limit)

    @property
    def objects(self) -> Objects:
        return self._owner.objects

    # -- look -------------------------------------------------------------------------------

    async def stats(self, queue: str) -> QueueStats:
        await self._owner.look()
        return self._owner.stats(validate.queue_name(queue))

    async def list_queues(self) -> list[str]:
        await self._owner.look()
        return sorted(self._owner.counters)

    async def get_job(self, job_id: str) -> JobRecord | None:
        await self._owner.look()
        owner = self._owner
        return await listings.get_job(owner.engine, owner.payloads, validate.job_id(job_id))

    async def list_jobs(
        self,
        queue: str,
        status: JobStatus | str,
        cursor: str | None = None,
        limit: int = 100,
        *,
        payloads: bool = True,
    ) -> JobPage:
        await self._owner.look()
        return await listings.list_jobs(
            self._owner.engine,
            self._owner.payloads if payloads else None,
            validate.queue_name(queue),
            listings.known_status(status),
            cursor,
            limit,
        )

    async def attempt_history(self, job_id: str) -> list[JobAttempt]:
        await self._owner.look()
        return await listings.attempt_history(self._owner.engine, validate.job_id(job_id))

    async def inbox_stats(self) -> InboxStats:
        await self._owner.enter()
        return await inbox_listings.stats(self._owner.location)

    async def rejected_batches(self, limit: int = 100) -> list[RejectedBatch]:
        await self._owner.enter()
        return await inbox_listings.rejected(self._owner.location, limit)
