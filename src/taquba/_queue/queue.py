"""`Queue`: the owner's face of a store. Each method checks, delegates, and documents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from taquba._model import validate
from taquba._model.batch import MAX_BATCH_JOBS
from taquba._model.clock import Clock, SystemClock
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.options import EnqueueRequest, InboxConfig, QueueConfig, SettlementEffects
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
    NackOutcome,
    QueueStats,
    RejectedBatch,
    WaitOutcome,
    WakeOutcome,
)
from taquba._model.resources import ClosedAtExit, Opening
from taquba._model.validate import Duration, KvKey
from taquba._objects.location import StoreLocation
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
from taquba._queue.claims import Claim
from taquba._queue.intake import Inbox
from taquba._queue.opening import closing_state, open_owner, payload_location
from taquba._queue.owner import Owner
from taquba._queue.user_objects import Objects
from taquba._telemetry.choosing import instrument
from taquba._telemetry.settings import Telemetry, as_telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from taquba._line.server import SocketServer

_MAX_CLAIM_BATCH = 10_000

DEFAULT_OFFLOAD_THRESHOLD: Final = 256 * 1024
_MAX_OFFLOAD_THRESHOLD: Final = 64 * 1024 * 1024
"""Records larger than this would not go well through the storage engine."""


class Queue(ClosedAtExit):
    """A durable job queue whose state lives in an object store.

    One process, the owner, opens a store at a time; opening it elsewhere fences this one. A queue
    belongs to the event loop that opened it. Make one with `Queue.open`:

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
        self._closing: asyncio.Task[None] | None = None

    @staticmethod
    def open(
        url: str | os.PathLike[str],
        *,
        default_config: QueueConfig | None = None,
        queue_configs: Mapping[str, QueueConfig] | None = None,
        clock: Clock | None = None,
        flush_interval: Duration | None = None,
        fsync: bool = True,
        reaper_interval: Duration = 5,
        scheduler_interval: Duration = 1,
        heartbeat_interval: Duration | None = None,
        payload_offload_threshold: int | None = DEFAULT_OFFLOAD_THRESHOLD,
        payload_url: str | os.PathLike[str] | None = None,
        inbox: InboxConfig | bool = False,
        producer_socket: bool = False,
        metrics: Telemetry | MeterProvider | bool | None = None,
    ) -> Opening[Queue]:
        """Open a store for writing; ``await`` it, or use it with ``async with``.

        Whoever had the store open is fenced. Jobs that were claimed go back to pending at once.
        Unless the store was closed, they are suspects: each runs alone, and only if it ends the
        process then, that counts as an attempt.

        Args:
            url: ``memory://`` (fresh), ``memory://name`` (shared by name in this process),
                ``file:///abs/path``, a plain path, ``s3://bucket/prefix``, ``gs://bucket/prefix``
                or ``az://container/prefix``; cloud credentials come from the environment.
            default_config: Settings of queues that `queue_configs` does not name.
            queue_configs: Settings per queue name.
            clock: Where time comes from; the machine's clock by default.
            flush_interval: Least time between two flushes, seconds. None flushes as soon as
                somebody waits. On a cloud store a longer one means fewer requests.
            fsync: Local folders: have every acknowledged commit on disk, safe from power loss.
                Without it a commit is safe from the end of the process only.
            reaper_interval: Bound on the time between a lease's expiry and its job's return,
                seconds.
            scheduler_interval: How often, in seconds, the wall clock is looked at while a
                scheduled job waits, in case it was set.
            heartbeat_interval: Write a sign of life this often, seconds; None never does.
            payload_offload_threshold: Largest payload, in bytes, that is kept in its job's
                record; a larger one becomes an object of its own. None keeps all in the records.
            payload_url: Where these objects, and those of `objects`, are kept; default: next to
                the store, in ``{url}-payloads``. Do not change it while jobs have their payload
                there.
            inbox: Take what producers in other processes put into the store's inbox, in
                ``{url}-inbox``; see `taquba.Producer`. An `InboxConfig` says how. On a bucket
                this costs requests: by default one every 5 seconds while nothing comes.
            producer_socket: Listen on a unix socket, which only this user can connect to, for the
                producers of this machine: they need not go through the store then. It is in the
                store's folder, or for a bucket in a folder of this user's.
            metrics: OpenTelemetry metrics and traces. None emits them if the application has
                configured a global provider by now, True to the global providers in any case,
                False not at all. A `MeterProvider` gets the metrics; a `taquba.Telemetry` names
                both providers.

        Raises:
            InvalidArgument: The URL or a setting cannot be used, or OpenTelemetry was asked for
                and is not installed.
            IncompatibleStore: The store was written in another layout.
            StoreError: The store cannot be reached or written.
        """
        location = StoreLocation.parse(url)
        if producer_socket and location.in_memory:
            raise InvalidArgument(
                f"{location.url} is in the memory of this process: no other can use producer_socket"
            )
        return Opening(
            Queue._open(
                location,
                default_config=_config(default_config, "default_config"),
                queue_configs=_configs(queue_configs),
                clock=_clock(clock),
                flush_ms=validate.optional_duration_ms(flush_interval, "flush_interval") or 0,
                fsync=fsync,
                reaper_ms=validate.duration_ms(reaper_interval, "reaper_interval", minimum=1),
                recheck_ms=validate.duration_ms(
                    scheduler_interval, "scheduler_interval", minimum=1
                ),
                heartbeat_ms=validate.optional_duration_ms(
                    heartbeat_interval, "heartbeat_interval", minimum=1
                ),
                metrics=as_telemetry(metrics),
                payload_threshold=_threshold(payload_offload_threshold),
                payload_location=payload_location(location, payload_url),
                inbox=_inbox(inbox, location),
                socket_at=location if producer_socket else None,
            )
        )

    @staticmethod
    async def _open(
        location: StoreLocation,
        *,
        default_config: QueueConfig,
        queue_configs: dict[str, QueueConfig],
        clock: Clock,
        flush_ms: int,
        fsync: bool,
        reaper_ms: int,
        recheck_ms: int,
        heartbeat_ms: int | None,
        metrics: Telemetry,
        payload_threshold: int | None,
        payload_location: StoreLocation,
        inbox: InboxConfig | None,
        socket_at: StoreLocation | None,
    ) -> Queue:
        owner = await open_owner(
            location,
            clock,
            fsync=fsync,
            default_config=default_config,
            queue_configs=queue_configs,
            flush_interval=flush_ms / 1000,
            telemetry=await instrument(metrics, location.url, clock),
            payload_threshold=payload_threshold,
            payload_location=payload_location,
        )
        queue = Queue(owner)
        try:
            await queue._begin(
                recheck_ms=recheck_ms,
                reaper_ms=reaper_ms,
                heartbeat_ms=heartbeat_ms,
                inbox=inbox,
                fsync=fsync,
                socket_at=socket_at,
            )
        except BaseException:
            await queue.close()
            raise
        return queue

    async def close(self) -> None:
        """Write what is waiting, stop the background tasks, close the store. Idempotent."""
        if self._closing is None or not self._closing.done():
            self._owner.place.check()
        if self._closing is None or self._closing.cancelled():
            self._closing = LastTask(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        owner = self._owner
        if self._socket is not None:
            await self._socket.close()
        owner.closing()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await owner.committer.close(lambda: closing_state(owner))
        hurried = owner.committer.forsaken
        await owner.payloads.close(hurried=hurried)
        if self._inbox is not None:
            await self._inbox.close()
        await owner.engine.close(hurried=hurried)

    async def _begin(
        self,
        *,
        recheck_ms: int,
        reaper_ms: int,
        heartbeat_ms: int | None,
        inbox: InboxConfig | None,
        fsync: bool,
        socket_at: StoreLocation | None,
    ) -> None:
        """Start what runs beside the calls."""
        owner = self._owner
        running: dict[str, Coroutine[Any, Any, None]] = {
            "scheduler": loops.run_scheduler(owner, recheck_ms),
            "reaper": loops.run_reaper(owner, reaper_ms),
            "retention": loops.run_retention(owner, recheck_ms),
            "orphan-sweep": loops.run_orphan_sweep(owner),
            "engine-watch": loops.watch_engine(owner),
        }
        if heartbeat_ms is not None:
            running["heartbeat"] = loops.run_heartbeat(owner, heartbeat_ms)
        for name, loop in running.items():
            self._run(name, loop)
        if inbox is not None:
            self._inbox = await Inbox.open(owner, inbox, fsync=fsync)
            self._run("inbox", self._inbox.run())
        if socket_at is not None:
            self._socket = await serve_socket(owner, socket_at)

    def _run(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(
            asyncio.create_task(loops.until_failure(self._owner, loop), name=f"taquba-{name}")
        )

    @property
    def clock(self) -> Clock:
        """Where this queue's time comes from."""
        return self._owner.clock

    def config(self, name: str) -> QueueConfig:
        """The settings that a queue was opened with, or the default ones."""
        self._owner.check()
        return self._owner.config(validate.queue_name(name))

    # -- enqueue ----------------------------------------------------------------------------

    async def enqueue(
        self,
        name: str,
        payload: bytes,
        *,
        run_at: datetime | None = None,
        delay: Duration | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        dedup_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        job_id: str | None = None,
        kv_writes: Mapping[KvKey, bytes] | None = None,
    ) -> EnqueueResult:
        """Add a job; durable when this returns. See `EnqueueRequest` for the arguments.

        Raises:
            DuplicateJobId: `job_id` exists already.
            InvalidArgument: A value cannot be used; nothing was written.
        """
        await self._owner.enter()
        request = EnqueueRequest(
            name,
            payload,
            run_at=run_at,
            delay=delay,
            priority=priority,
            max_attempts=max_attempts,
            dedup_key=dedup_key,
            headers=headers,
            job_id=job_id,
            kv_writes=kv_writes,
        )
        (result,) = await enqueueing.enqueue(self._owner, (request,))
        return result

    async def enqueue_batch(self, requests: Iterable[EnqueueRequest]) -> list[EnqueueResult]:
        """Add jobs to any queues in one atomic commit; results are in the order of `requests`.

        Raises:
            DuplicateJobId: A `job_id` exists already, or comes twice; nothing was written.
            InvalidArgument: More than 10,000 requests; nothing was written.
        """
        await self._owner.enter()
        batch = list(islice(requests, MAX_BATCH_JOBS + 1))
        if len(batch) > MAX_BATCH_JOBS:
            raise InvalidArgument(
                f"a batch has at most {MAX_BATCH_JOBS} requests, which are one commit: "
                "enqueue them in several"
            )
        for request in batch:
            validate.instance(request, EnqueueRequest, "each request")
        return await enqueueing.enqueue(self._owner, batch) if batch else []

    def next_job_id(self) -> str:
        """An id for a job that is enqueued later, in the order of ids handed out so far."""
        self._owner.check()
        return self._owner.ids.reserve()

    # -- claim and settle -------------------------------------------------------------------

    async def claim(
        self, name: str, *, lease: Duration | None = None, wait: Duration | None = None
    ) -> Claim | None:
        """Take the first pending job, or None when there is none.

        A suspect (see `JobRecord.suspect`) is handed out only while no other job of the store is
        claimed, and until its claim has ended no other job is handed out.

        Args:
            name: The queue.
            lease: How long the claim holds the job, seconds; default: the queue's.
            wait: How long to wait for a job, seconds, on the queue's clock.

        Raises:
            StoreError: Also when the large payload of the job that was found cannot be read now;
                the job is put off for a few seconds then, its attempt not spent.
        """
        found = await self.claim_batch(name, 1, lease=lease, wait=wait)
        return found[0] if found else None

    async def claim_batch(
        self,
        name: str,
        max_jobs: int,
        *,
        lease: Duration | None = None,
        wait: Duration | None = None,
    ) -> list[Claim]:
        """Take up to `max_jobs` pending jobs, in one commit and under one lease duration.

        Waits, like `claim`, for the first of them only. There may be fewer than were asked for
        though more are pending: claim again until there are none.
        """
        owner = self._owner
        await owner.enter()
        state = owner.queue(validate.queue_name(name))
        return await payload_reads.claim_batch(
            owner,
            state,
            validate.integer(max_jobs, "max_jobs", 1, _MAX_CLAIM_BATCH),
            state.policy.lease_ms
            if lease is None
            else validate.duration_ms(lease, "lease", minimum=1),
            validate.optional_duration_ms(wait, "wait"),
        )

    async def wait_for_jobs_on(self, *names: str, timeout: Duration) -> bool:
        """Wait until one of the queues has a pending job; False when `timeout` passed first."""
        owner = self._owner
        await owner.enter()
        if not names:
            raise InvalidArgument("wait_for_jobs_on needs at least one queue name")
        states = [owner.queue(validate.queue_name(name)) for name in names]
        timeout_ms = validate.duration_ms(timeout, "timeout")
        return await claims.wait_until_ready(owner, states, timeout_ms)

    async def ack(
        self, claim: Claim, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        """The job is done: remove it, with `effects` in the same commit. Durable on return.

        Returns:
            Results of the effects' enqueues, in order.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
        """
        await self._owner.enter()
        return await settling.ack(self._owner, claim, effects)

    async def nack(
        self, claim: Claim, error: str, effects: SettlementEffects | None = None
    ) -> NackOutcome:
        """The attempt failed: retry after the backoff, or dead-letter after the last attempt.

        Effects are applied only if this dead-letters the job; a retry discards them.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
        """
        await self._owner.enter()
        return await settling.nack(self._owner, claim, error, effects)

    async def dead_letter(
        self, claim: Claim, reason: str, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        """The job can never succeed: keep it as a dead letter, with `effects` applied.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
        """
        await self._owner.enter()
        return await settling.dead_letter(self._owner, claim, reason, effects)

    def renew_lease(self, claim: Claim, extension: Duration) -> datetime:
        """Let the claim hold its job for `extension` seconds from now; returns the new expiry.

        Raises:
            ClaimLost: The lease was taken back, or the claim is settled.
            CancelRequested: The job was asked to cancel; the lease was not extended.
        """
        self._owner.check()
        extension_ms = validate.duration_ms(extension, "extension", minimum=1)
        return claims.renew_for_caller(self._owner, claim, extension_ms)

    def lease_expiry(self, claim: Claim | str) -> datetime | None:
        """When the lease of a claim, or of a job by id, runs out; None when nobody holds it."""
        owner = self._owner
        owner.check()
        lease = (
            owner.leases.get(validate.job_id(claim))
            if isinstance(claim, str)
            else claims.lease_in_force(owner, claim)
        )
        return None if lease is None else claims.expiry(owner, lease)

    # -- operate ----------------------------------------------------------------------------

    async def cancel(self, job_id: str, effects: SettlementEffects | None = None) -> CancelOutcome:
        """Remove a pending or scheduled job, or ask the handler of a claimed one to stop.

        The request to a claimed job is stored, fires its cancel token, and survives redelivery.
        Effects are applied only with a removal.
        """
        await self._owner.enter()
        return await control.cancel(self._owner, validate.job_id(job_id), effects)

    async def wake_scheduled(self, job_id: str, payload: bytes | None = None) -> WakeOutcome:
        """Start a scheduled job now; it sees `woken_at` and `wake_payload`.

        Args:
            job_id: The job.
            payload: A message to it, at most `MAX_KV_VALUE_SIZE` bytes.
        """
        await self._owner.enter()
        if payload is not None:
            payload = validate.wake_payload(payload)
        return await control.wake_scheduled(self._owner, validate.job_id(job_id), payload)

    async def requeue_dead(self, job_id: str) -> None:
        """Give a dead job fresh attempts; it keeps its id and enqueue time.

        Raises:
            JobNotFound: There is no such job (any more).
            InvalidState: The job is not dead.
        """
        await self._owner.enter()
        await control.requeue_dead(self._owner, validate.job_id(job_id))

    async def purge_dead(self, job_id: str) -> None:
        """Remove a dead job before its retention is over, with its history.

        Raises:
            JobNotFound: There is no such job (any more).
            InvalidState: The job is not dead.
        """
        await self._owner.enter()
        await control.purge_dead(self._owner, validate.job_id(job_id))

    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        """Wait until a job is acknowledged or dead-lettered. Does not poll.

        Args:
            job_id: The job.
            timeout: Seconds, on the queue's clock.
        """
        await self._owner.enter()
        timeout_ms = validate.duration_ms(timeout, "timeout")
        return await control.wait_for_completion(self._owner, validate.job_id(job_id), timeout_ms)

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

        Payload objects that a crash left without a job go as well, an hour after their upload.
        """
        await self._owner.enter()
        await payload_writes.sweep_orphans(self._owner)
        return await loops.sweep(self._owner)

    async def ingest_now(self) -> int:
        """Take what is in the store's inbox without waiting for the next look at it.

        Returns:
            How many jobs are new; 0 where the queue was opened without an inbox.
        """
        await self._owner.enter()
        return 0 if self._inbox is None else await self._inbox.take()

    # -- caller-owned entries ---------------------------------------------------------------

    async def kv_get(self, key: KvKey) -> bytes | None:
        """The value of an entry, or None."""
        await self._owner.enter()
        return await key_values.get(self._owner.engine, key)

    async def kv_put(self, key: KvKey, value: bytes) -> None:
        """Write an entry of at most `MAX_KV_VALUE_SIZE` bytes; durable on return.

        Raises:
            KvValueTooLarge: The value does not fit.
        """
        await self._owner.enter()
        await key_values.write(self._owner, key, validate.kv_value(key, value))

    async def kv_delete(self, key: KvKey) -> None:
        """Delete an entry, if it exists; durable on return."""
        await self._owner.enter()
        await key_values.write(self._owner, key, None)

    async def kv_compare_put(self, key: KvKey, expected: bytes | None, value: bytes) -> bool:
        """Write an entry only if it holds `expected` (None: is absent). False: nothing changed."""
        await self._owner.enter()
        return await key_values.compare_write(
            self._owner, key, expected, validate.kv_value(key, value)
        )

    async def kv_compare_delete(self, key: KvKey, expected: bytes) -> bool:
        """Delete an entry only if it holds `expected`. False: nothing changed."""
        await self._owner.enter()
        validate.kv_value(key, expected)
        return await key_values.compare_write(self._owner, key, expected, None)

    async def kv_scan(self, prefix: K, cursor: str | None = None, limit: int = 100) -> KvPage[K]:
        """Entries whose key starts with `prefix`, in key order, a page at a time.

        A `str` prefix gives `str` keys, a `bytes` prefix gives `bytes` keys. Keys that are no text
        are in `KvPage.unreadable` where text was asked for.
        """
        await self._owner.enter()
        return await key_values.scan(self._owner.engine, prefix, cursor, limit)

    @property
    def objects(self) -> Objects:
        """Caller-owned objects, for values too large for an entry."""
        return self._owner.objects

    # -- look -------------------------------------------------------------------------------

    async def stats(self, name: str) -> QueueStats:
        """Counters of a queue; all zero for one that was never used."""
        await self._owner.look()
        return self._owner.stats(validate.queue_name(name))

    async def list_queues(self) -> list[str]:
        """Names of all queues that ever held a job, sorted."""
        await self._owner.look()
        return sorted(self._owner.counters)

    async def get_job(self, job_id: str) -> JobRecord | None:
        """A job in any state, or None."""
        await self._owner.look()
        owner = self._owner
        return await listings.get_job(owner.engine, owner.payloads, validate.job_id(job_id))

    async def list_jobs(
        self,
        name: str,
        status: JobStatus | str,
        cursor: str | None = None,
        limit: int = 100,
        *,
        payloads: bool = True,
    ) -> JobPage:
        """Jobs of a queue in one state, a page at a time.

        Pending jobs come in claim order, scheduled ones by due time, done and dead ones by the
        time they ended. With ``payloads=False`` large payloads, which are objects of their own,
        are not read: `JobRecord.payload` of such a job raises `PayloadMissing`.
        """
        await self._owner.look()
        return await listings.list_jobs(
            self._owner.engine,
            self._owner.payloads if payloads else None,
            validate.queue_name(name),
            listings.known_status(status),
            cursor,
            limit,
        )

    async def dead_jobs(
        self, name: str, cursor: str | None = None, limit: int = 100, *, payloads: bool = True
    ) -> JobPage:
        """Dead letters of a queue, oldest first, a page at a time; see `list_jobs`."""
        return await self.list_jobs(name, JobStatus.dead, cursor, limit, payloads=payloads)

    async def attempt_history(self, job_id: str) -> list[JobAttempt]:
        """Ended attempts of a job, oldest first; empty when there are none or the job is gone."""
        await self._owner.look()
        return await listings.attempt_history(self._owner.engine, validate.job_id(job_id))

    async def inbox_stats(self) -> InboxStats:
        """What is in the store's inbox, whether the owner looks into it or not."""
        await self._owner.enter()
        return await inbox_listings.stats(self._owner.location)

    async def rejected_batches(self, limit: int = 100) -> list[RejectedBatch]:
        """The first batches, by name, that the owner could not take, and why."""
        await self._owner.enter()
        return await inbox_listings.rejected(self._owner.location, limit)


def _config(value: QueueConfig | None, name: str) -> QueueConfig:
    if value is None:
        return QueueConfig()
    validate.instance(value, QueueConfig, name)
    return value


def _configs(value: Mapping[str, QueueConfig] | None) -> dict[str, QueueConfig]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentType(f"queue_configs must map names to QueueConfig, not {value!r}")
    return {
        validate.queue_name(name): _config(config, f"queue_configs[{name!r}]")
        for name, config in value.items()
    }


def _inbox(value: InboxConfig | bool, location: StoreLocation) -> InboxConfig | None:
    if value is False:
        return None
    location.check_shared()
    if value is True:
        return InboxConfig()
    validate.instance(value, InboxConfig, "inbox")
    return value


def _threshold(value: int | None) -> int | None:
    if value is None:
        return None
    return validate.integer(value, "payload_offload_threshold", 0, _MAX_OFFLOAD_THRESHOLD)


def _clock(value: Clock | None) -> Clock:
    if value is None:
        return SystemClock()
    validate.instance(value, Clock, "clock")
    return value
