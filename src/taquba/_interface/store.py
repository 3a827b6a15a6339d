"""The operations of every handle on a store, in any process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Unpack

from taquba._interface.claim import Claim
from taquba._model.clock import Clock
from taquba._model.options import EnqueueOptions, EnqueueRequest, QueueConfig, SettlementEffects
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
from taquba._model.validate import Duration, KvKey
from taquba._objects.user_objects import Objects, ReadOnlyObjects


class ReadableStore(ABC):
    """A store that can be read: a `Store`, or a `QueueReader` beside its owner."""

    @property
    @abstractmethod
    def clock(self) -> Clock:
        """The clock of this handle."""

    @property
    @abstractmethod
    def objects(self) -> ReadOnlyObjects:
        """Caller-owned objects, for values too large for an entry."""

    @abstractmethod
    async def stats(self, queue: str) -> QueueStats:
        """Return the counters of a queue; all zero for one that was never used."""

    @abstractmethod
    async def list_queues(self) -> list[str]:
        """Return the names of all queues that ever held a job, sorted."""

    @abstractmethod
    async def get_job(self, job_id: str) -> JobRecord | None:
        """Return a job in any state, or None."""

    @abstractmethod
    async def list_jobs(
        self,
        queue: str,
        status: JobStatus | str,
        cursor: str | None = None,
        limit: int = 100,
        *,
        payloads: bool = True,
    ) -> JobPage:
        """Return the jobs of a queue in one state, a page at a time.

        Pending jobs are in claim order, scheduled ones by due time, done and dead ones by the time
        they ended.

        Args:
            queue: Name of the queue.
            status: The state.
            cursor: `JobPage.next_cursor` of the page before; None for the first page.
            limit: Most jobs on the page, 1 to 10,000.
            payloads: Read large payloads, which are separate objects. If False, `JobRecord.payload`
                of such a job raises `PayloadMissing`.
        """

    async def dead_jobs(
        self, queue: str, cursor: str | None = None, limit: int = 100, *, payloads: bool = True
    ) -> JobPage:
        """Return the dead letters of a queue, oldest first, a page at a time; see `list_jobs`."""
        return await self.list_jobs(queue, JobStatus.DEAD, cursor, limit, payloads=payloads)

    @abstractmethod
    async def attempt_history(self, job_id: str) -> list[JobAttempt]:
        """Return the ended attempts of a job, oldest first; empty if there are none or no job."""

    @abstractmethod
    async def kv_get(self, key: KvKey, *, durable: bool = False) -> bytes | None:
        """Return the value of a caller-owned entry, or None.

        Args:
            key: The entry.
            durable: Wait until a crash could not undo what is returned. Without it a `Store` shows
                a commit a moment earlier; a reader shows nothing else.
        """

    @abstractmethod
    async def kv_scan(self, prefix: K, cursor: str | None = None, limit: int = 100) -> KvPage[K]:
        """Return the entries whose key starts with `prefix`, in key order, a page at a time.

        A `str` prefix gives `str` keys, a `bytes` prefix gives `bytes` keys. If text was requested,
        keys that are not text are in `KvPage.unreadable`.
        """

    @abstractmethod
    async def inbox_stats(self) -> InboxStats:
        """Return counts of the store's inbox, whether or not the owner uses it."""

    @abstractmethod
    async def rejected_batches(self, limit: int = 100) -> list[RejectedBatch]:
        """Return the first batches, by name, that the owner could not take, and why."""


class Store(ReadableStore):
    """A handle on a store with all operations.

    `Queue` is the owner's handle. Functions and packages that accept a `Store` work with any.
    """

    @property
    @abstractmethod
    def objects(self) -> Objects:
        """Caller-owned objects, for values too large for an entry."""

    @abstractmethod
    def config(self, queue: str) -> QueueConfig:
        """Return the settings with which a queue was opened, or the default ones."""

    # -- enqueue ----------------------------------------------------------------------------

    @abstractmethod
    async def enqueue(
        self, queue: str, payload: bytes, **options: Unpack[EnqueueOptions]
    ) -> EnqueueResult:
        """Add a job; durable when this returns.

        Args:
            queue: Name of the queue, 1 to 255 UTF-8 bytes.
            payload: The job's content, opaque to taquba.
            options: When it may start, its priority and so on; see `EnqueueOptions`.

        Returns:
            The job's id, and whether it is new. If its dedup key is held, the id of the job that
            holds it.

        Raises:
            DuplicateJobId: `job_id` already exists.
            InvalidArgument: A value cannot be used; nothing was written.
        """

    @abstractmethod
    async def enqueue_batch(
        self,
        requests: Iterable[EnqueueRequest],
        *,
        kv_expected: Mapping[KvKey, bytes | None] | None = None,
    ) -> list[EnqueueResult]:
        """Add jobs to any queues in one atomic commit.

        Args:
            requests: At most 10,000.
            kv_expected: Entries on which the decision to add them was based, as they were read;
                None for one that was absent.

        Returns:
            A result for each request, in their order.

        Raises:
            DuplicateJobId: A `job_id` already exists, or occurs twice; nothing was written.
            EntryChanged: An entry is not as `kv_expected` says; nothing was written.
            InvalidArgument: There are too many; nothing was written.
        """

    @abstractmethod
    def next_job_id(self) -> str:
        """Return an id for a job to enqueue later; it is higher than all ids so far."""

    # -- claim and settle -------------------------------------------------------------------

    async def claim(
        self, queue: str, *, lease: Duration | None = None, wait: Duration | None = None
    ) -> Claim | None:
        """Claim the first pending job; None if there is none.

        A suspect (see `JobRecord.suspect`) is handed out while this process holds no other job, and
        while it is held the process gets no other job: each for some seconds, which every further
        end of its process doubles.

        Args:
            queue: Name of the queue.
            lease: How long the claim holds the job, seconds; default: the queue's.
            wait: How long to wait for a job, seconds, on the store's clock.

        Raises:
            StoreError: Also if the large payload of the job cannot be read at the moment; the job
                is then put off for a few seconds without spending its attempt.
        """
        found = await self.claim_batch(queue, 1, lease=lease, wait=wait)
        return found[0] if found else None

    @abstractmethod
    async def claim_batch(
        self,
        queue: str,
        max_jobs: int,
        *,
        lease: Duration | None = None,
        wait: Duration | None = None,
    ) -> list[Claim]:
        """Claim up to `max_jobs` pending jobs, in one commit and with one lease duration.

        The result may be shorter although more jobs are pending: claim again until it is empty.

        Args:
            queue: Name of the queue.
            max_jobs: 1 to 10,000.
            lease: How long the claims hold their jobs, seconds; default: the queue's.
            wait: How long to wait for the first job, seconds, on the store's clock.
        """

    @abstractmethod
    async def wait_for_jobs_on(self, *queues: str, timeout: Duration) -> bool:
        """Wait until one of the queues has a pending job; False if `timeout` passed first."""

    @abstractmethod
    async def ack(
        self, claim: Claim, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        """Acknowledge a job: it is done, with `effects` in the same commit. Durable on return.

        Args:
            claim: The job.
            effects: Further changes in that commit.

        Returns:
            Results of the effects' enqueues, in order.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
            EntryChanged: An entry is not as the effects expect; nothing was applied.
            CancelRequested: The effects are for a job that was not asked to cancel, and this one
                was; nothing was applied.
        """

    @abstractmethod
    async def nack(
        self, claim: Claim, error: str, effects: SettlementEffects | None = None
    ) -> NackOutcome:
        """Fail an attempt: retry after the backoff, or dead-letter after the last attempt.

        Args:
            claim: The job.
            error: The reason, as text for people; kept in the history.
            effects: Applied only if this dead-letters the job; a retry discards them.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
        """

    @abstractmethod
    async def dead_letter(
        self, claim: Claim, reason: str, effects: SettlementEffects | None = None
    ) -> list[EnqueueResult]:
        """Dead-letter a job that can never succeed, with `effects` in the same commit.

        Raises:
            ClaimLost: The lease was taken back or the claim settled before; nothing was applied.
        """

    @abstractmethod
    async def renew_lease(self, claim: Claim, extension: Duration) -> datetime:
        """Set the end of a lease to `extension` seconds from now; returns the new expiry.

        Raises:
            ClaimLost: The lease was taken back, or the claim is settled.
            CancelRequested: The job was asked to cancel; the lease was not extended.
        """

    @abstractmethod
    async def lease_expiry(self, claim: Claim | str) -> datetime | None:
        """Return when the lease of a claim, or of a job by id, expires; None if nobody holds it."""

    # -- operate ----------------------------------------------------------------------------

    @abstractmethod
    async def cancel(self, job_id: str, effects: SettlementEffects | None = None) -> CancelOutcome:
        """Remove a pending or scheduled job, or ask the handler of a claimed one to stop.

        The request to a claimed job is stored, fires its cancel token, and survives redelivery.

        Args:
            job_id: The job.
            effects: Applied only if the job is removed.
        """

    @abstractmethod
    async def wake_scheduled(
        self, job_id: str, payload: bytes | None = None, *, if_unbegun: bool = False
    ) -> WakeOutcome:
        """Start a scheduled job now; it sees `woken_at` and `wake_payload`.

        Args:
            job_id: The job.
            payload: A message for it, at most `MAX_KV_VALUE_SIZE` bytes.
            if_unbegun: Leave alone a job that was woken before, or that waits for a retry.
        """

    @abstractmethod
    async def requeue_dead(self, job_id: str) -> None:
        """Give a dead job fresh attempts; it keeps its id and enqueue time.

        Raises:
            JobNotFound: There is no such job (any more).
            InvalidState: The job is not dead.
        """

    @abstractmethod
    async def purge_dead(self, job_id: str) -> None:
        """Remove a dead job before its retention is over, with its history.

        Raises:
            JobNotFound: There is no such job (any more).
            InvalidState: The job is not dead.
        """

    @abstractmethod
    async def wait_for_completion(self, job_id: str, timeout: Duration) -> WaitOutcome:
        """Wait until a job is acknowledged or dead-lettered. Does not poll.

        Args:
            job_id: The job.
            timeout: Seconds, on the store's clock.
        """

    @abstractmethod
    async def members(self) -> list[Member]:
        """Return the processes that take part, the owner first, and what each of them runs.

        A process takes part if it owns the store, or is connected to the owner by a `Service`;
        one that is paused or hangs is listed as well, until its connection ends.
        """

    # -- caller-owned entries ---------------------------------------------------------------

    @abstractmethod
    async def kv_put(self, key: KvKey, value: bytes) -> None:
        """Write an entry of at most `MAX_KV_VALUE_SIZE` bytes; durable on return.

        Raises:
            KvValueTooLarge: The value does not fit.
        """

    @abstractmethod
    async def kv_delete(self, key: KvKey) -> None:
        """Delete an entry, if it exists; durable on return."""

    @abstractmethod
    async def kv_compare_put(self, key: KvKey, expected: bytes | None, value: bytes) -> bool:
        """Write an entry only if it holds `expected` (None: is absent); False if it does not."""

    @abstractmethod
    async def kv_compare_delete(self, key: KvKey, expected: bytes) -> bool:
        """Delete an entry only if it holds `expected`; False if it does not."""
