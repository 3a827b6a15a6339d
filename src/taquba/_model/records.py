"""Records: the job as the store holds it, and the read-only views that callers see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

from taquba._model.clock import from_ms
from taquba._model.errors import PayloadDamaged, PayloadMissing
from taquba._model.words import WordEnum


class JobStatus(WordEnum):
    """The state of a job."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    CLAIMED = "claimed"
    DONE = "done"
    DEAD = "dead"


# For code that runs for every job: Python 3.11 takes 0.1 us to find the member of an enum.
PENDING: Final = JobStatus.PENDING
SCHEDULED: Final = JobStatus.SCHEDULED
CLAIMED: Final = JobStatus.CLAIMED
DONE: Final = JobStatus.DONE
DEAD: Final = JobStatus.DEAD


class Suspicion(NamedTuple):
    """Why a job runs alone: its process ended while it ran, and perhaps because of it."""

    interruptions: int = 0
    """Ends of its process while others may have run beside it; they spent no attempt."""
    deaths: int = 0
    """Ends of its process while it ran alone; each spent an attempt."""
    alone: bool = False
    """For a claimed job: nothing runs beside it."""


class Job(NamedTuple):
    """A job's record. Times are ms since the Unix epoch.

    The store keeps all fields except `id` and `queue`, which are in its key, as one MessagePack
    array in this order; new fields are appended, with a default for older records.
    """

    id: str
    queue: str
    payload: bytes
    headers: dict[str, str] | None
    priority: int
    enqueued_at: int
    max_attempts: int
    attempts: int = 0
    run_at: int | None = None
    dedup_key: str | None = None
    holds_dedup_key: bool = False
    """True from enqueue to the first claim; a retried job no longer blocks its key."""
    claimed_at: int | None = None
    finished_at: int | None = None
    last_error: str | None = None
    cancel_requested: bool = False
    woken_at: int | None = None
    wake_payload: bytes | None = None
    history_length: int = 0
    """Entries in the history space, so that they are removed without a scan."""
    payload_ref: str | None = None
    """Name of the object that holds a large payload. `payload` is empty in the store, and holds
    the content in a view for which the object was read."""
    suspicion: Suspicion | None = None
    """Kept from the end of its process until the job ends in any other way."""
    worker: str | None = None
    """Id of the process for which the newest claim was made."""


_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else from_ms(ms)


class JobView:
    """The attributes of a job, read-only. Times are aware UTC datetimes."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def queue(self) -> str:
        """Name of the job's queue."""
        return self._job.queue

    @property
    def payload(self) -> bytes:
        """The content given to `enqueue`.

        Raises:
            PayloadMissing: It is a separate object, which was not found or not read.
            PayloadDamaged: That object is not as it was written.
        """
        job = self._job
        if job.payload_ref is not None and not job.payload:
            raise PayloadMissing(job.id, job.payload_ref)
        return job.payload

    @property
    def payload_ref(self) -> str | None:
        """Name of the object that holds a large payload; None for a payload in the record."""
        return self._job.payload_ref

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers given to `enqueue`, read-only."""
        headers = self._job.headers
        return MappingProxyType(headers) if headers else _NO_HEADERS

    @property
    def priority(self) -> int:
        """Lower is claimed first."""
        return self._job.priority

    @property
    def attempts(self) -> int:
        """Attempts started, including the running one."""
        return self._job.attempts

    @property
    def max_attempts(self) -> int:
        """Attempts after which a failing job is dead-lettered."""
        return self._job.max_attempts

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued."""
        return from_ms(self._job.enqueued_at)

    @property
    def run_at(self) -> datetime | None:
        """When a delayed or retried job may start; None if it never had to wait."""
        return _moment(self._job.run_at)

    @property
    def claimed_at(self) -> datetime | None:
        """When the newest attempt started."""
        return _moment(self._job.claimed_at)

    @property
    def worker(self) -> str | None:
        """Id of the process that runs or ran the newest attempt, as in `Member.id`.

        It begins with the name of the machine and the number of the process there. None if the job
        was never claimed, or last by a version of taquba that did not record it.
        """
        return self._job.worker

    @property
    def dedup_key(self) -> str | None:
        """The dedup key given to `enqueue`."""
        return self._job.dedup_key

    @property
    def last_error(self) -> str | None:
        """Error of the newest failed attempt, or the reason of the dead letter."""
        return self._job.last_error

    @property
    def cancel_requested(self) -> bool:
        """True once the job was asked to cancel while it was claimed."""
        return self._job.cancel_requested

    @property
    def suspect(self) -> bool:
        """True while the job is to run alone, because a process ended in which it ran."""
        return self._job.suspicion is not None

    @property
    def woken_at(self) -> datetime | None:
        """When `wake_scheduled` woke the job."""
        return _moment(self._job.woken_at)

    @property
    def wake_payload(self) -> bytes | None:
        """The message of `wake_scheduled`."""
        return self._job.wake_payload


class JobRecord(JobView):
    """The state of a job when it was read. It cannot be settled; only a `Claim` can."""

    __slots__ = ("_status",)

    def __init__(self, job: Job, status: JobStatus) -> None:
        super().__init__(job)
        self._status = status

    @property
    def status(self) -> JobStatus:
        """The state of the job when it was read."""
        return self._status

    @property
    def completed_at(self) -> datetime | None:
        """When the job was acknowledged, if it is done."""
        return _moment(self._job.finished_at) if self._status is JobStatus.DONE else None

    @property
    def failed_at(self) -> datetime | None:
        """When the job was dead-lettered, if it is dead."""
        return _moment(self._job.finished_at) if self._status is JobStatus.DEAD else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JobRecord):
            return NotImplemented
        return self._job == other._job and self._status is other._status

    def __hash__(self) -> int:
        return hash((self._job.id, self._status))

    def __repr__(self) -> str:
        return (
            f"JobRecord(id={self.id!r}, queue={self.queue!r}, status={self._status.value!r}, "
            f"attempts={self.attempts}/{self.max_attempts}, "
            f"payload={self.payload_ref or f'{len(self.payload)} bytes'})"
        )


def with_payload(record: JobRecord, payload: bytes) -> JobRecord:
    """A record that shows the content of its payload's object."""
    job = record._job  # pyright: ignore[reportPrivateUsage] - read-only to callers
    return JobRecord(job._replace(payload=payload), record.status)


def with_damage(record: JobRecord, damage: PayloadDamaged) -> JobRecord:
    """A record that names the problem of its payload's object."""
    job = record._job  # pyright: ignore[reportPrivateUsage] - read-only to callers
    return _DamagedRecord(job, record.status, damage)


class _DamagedRecord(JobRecord):
    __slots__ = ("_damage",)

    def __init__(self, job: Job, status: JobStatus, damage: PayloadDamaged) -> None:
        super().__init__(job, status)
        self._damage = damage

    @property
    def payload(self) -> bytes:
        raise self._damage.again()


class AttemptOutcome(WordEnum):
    """How an attempt at a job ended."""

    COMPLETED = "completed"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"
    LEASE_EXPIRED = "lease_expired"
    INTERRUPTED = "interrupted"
    """The worker drained, or its process or executor ended; `JobAttempt.counted` says whether that
    spent the attempt."""
    PAYLOAD_MISSING = "payload_missing"
    """The object of its payload was not found, or is damaged; the job waits for the next look."""
    REQUEUED = "requeued"
    """Not the end of an attempt: the dead job was requeued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttempt:
    """One entry of a job's history.

    Attributes:
        attempt: Number of the attempt, from 1.
        claimed_at: When it started.
        recorded_at: When it ended.
        outcome: How it ended.
        error: The error, if there was one.
        counted: Whether it spent one of the job's attempts. An interrupted attempt spent one only
            if the job ran alone when its process ended; a requeueing is not an attempt.
        worker: Id of the process that ran it, as in `Member.id`; None if that was not recorded.
    """

    attempt: int
    claimed_at: datetime | None
    recorded_at: datetime
    outcome: AttemptOutcome
    error: str | None
    counted: bool
    worker: str | None = None


class Counters(NamedTuple):
    """Rows of a queue per state, or changes of them; `done` counts every job ever completed."""

    pending: int = 0
    scheduled: int = 0
    claimed: int = 0
    done: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counters of a queue, exact as of its newest commit.

    Attributes:
        pending: Jobs ready to be claimed.
        scheduled: Jobs waiting for their time or for a retry.
        claimed: Jobs that a worker holds.
        done: Jobs completed over the queue's whole life.
        dead: Dead letters that are kept.
    """

    pending: int
    scheduled: int
    claimed: int
    done: int
    dead: int


@dataclass(frozen=True, slots=True)
class InboxStats:
    """The contents of a store's inbox, counted in batches of requests.

    Attributes:
        waiting: Batches that the owner has not taken yet.
        waiting_bytes: Their size.
        oldest_at: When the oldest of them was written, by the store's clock; aware, UTC.
        rejected: Batches that the owner could not take and has put aside.
    """

    waiting: int
    waiting_bytes: int
    oldest_at: datetime | None
    rejected: int


@dataclass(frozen=True, slots=True)
class RejectedBatch:
    """A batch that the owner could not take; it is stored in ``{url}-inbox/rejected/{name}/batch``.

    Attributes:
        name: Its name.
        size: Bytes.
        sent_at: When it was written, by the store's clock; aware, UTC.
        reason: Why it could not be taken, as text for people.
    """

    name: str
    size: int
    sent_at: datetime
    reason: str


class OwnerPresence(WordEnum):
    """Whether a store has a living owner."""

    PRESENT = "present"
    ABSENT = "absent"
    """The last owner closed the store or died: opening the store fences nobody."""
    UNKNOWN = "unknown"
    """The store was not closed, and its owner, if it lives, is idle; or a process began to open it,
    and has not written to it yet."""


@dataclass(frozen=True, slots=True)
class OwnerSigns:
    """Whether a store has a living owner, and how that is known.

    Attributes:
        presence: Whether it has one.
        reason: How that is known, or why it is not known, as text for people.
    """

    presence: OwnerPresence
    reason: str


class RunningJob(NamedTuple):
    """A job that a process runs.

    Attributes:
        job_id: The job.
        queue: Its queue.
        since: When the attempt started; aware, UTC.
    """

    job_id: str
    queue: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A process that takes part in a service, or that owns a store alone.

    Attributes:
        id: Its name, which no other process ever has: `JobRecord.worker` of the jobs that it runs.
        host: The name of its machine.
        pid: Its number there.
        version: Its version of taquba.
        role: ``"owner"``, ``"worker"``, or ``"producer"`` if it runs no handlers.
        since: When it began to take part; aware, UTC.
        places: How many jobs its worker loops run at a time, by queue.
        running: The jobs that it holds, claims by hand included, the oldest first: at most 1,000,
            and fewer where many processes take part.
    """

    id: str
    host: str
    pid: int
    version: str
    role: str
    since: datetime
    places: Mapping[str, int]
    running: tuple[RunningJob, ...]


class EnqueueResult(NamedTuple):
    """The result of `enqueue`.

    Attributes:
        id: The job's id; if the dedup key was held, the id of the job that holds it.
        new: False if the dedup key was held and nothing was written.
    """

    id: str
    new: bool


@dataclass(frozen=True, slots=True)
class NackOutcome:
    """The result of `nack`.

    Attributes:
        retried: True if the job will be tried again; its effects were discarded.
        enqueued: Results of the effects' enqueues, if the job was dead-lettered.
    """

    retried: bool
    enqueued: list[EnqueueResult]

    @property
    def dead_lettered(self) -> bool:
        """True if the attempts were used up."""
        return not self.retried


class CancelOutcome(WordEnum):
    """The result of `cancel`."""

    REMOVED = "removed"
    """The job was pending or scheduled and is gone."""
    REQUESTED = "requested"
    """The job is claimed; its handler's cancel token fired."""
    NOT_FOUND = "not_found"


class WakeOutcome(WordEnum):
    """The result of `wake_scheduled`."""

    WOKEN = "woken"
    NOT_SCHEDULED = "not_scheduled"
    NOT_FOUND = "not_found"


class WaitStatus(WordEnum):
    """How `wait_for_completion` ended."""

    COMPLETED = "completed"
    TIMED_OUT = "timed_out"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class WaitOutcome:
    """How `wait_for_completion` ended.

    Attributes:
        status: `completed` if the job was acknowledged or dead-lettered; `not_found` if it did not
            exist, or was cancelled while the caller waited.
        job: The record of the finished job if the queue keeps one (for dead letters, and for done
            jobs if `keep_done_jobs` is set).
    """

    status: WaitStatus
    job: JobRecord | None = None

    @property
    def completed(self) -> bool:
        """The job was acknowledged or dead-lettered."""
        return self.status is WaitStatus.COMPLETED

    @property
    def timed_out(self) -> bool:
        """The job was unfinished at the end of the timeout."""
        return self.status is WaitStatus.TIMED_OUT

    @property
    def not_found(self) -> bool:
        """There was no such job, or it was cancelled."""
        return self.status is WaitStatus.NOT_FOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRecord:
    """A record that a listing could not read.

    Attributes:
        name: Its name: the job's id, or the entry's key as text.
        key: For a caller-owned entry its key, as `kv_delete` accepts it; for a job its id.
        reason: Why it cannot be read, and how to remove it.
    """

    name: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs.

    Attributes:
        jobs: In the order of their state: claim order, due time, or time of ending.
        next_cursor: Pass it on to read the next page; None on the last one.
        unreadable: Jobs of this page whose records are damaged.
    """

    jobs: list[JobRecord]
    next_cursor: str | None
    unreadable: tuple[UnreadableRecord, ...] = ()


K = TypeVar("K", str, bytes)


class KvEntry(NamedTuple, Generic[K]):
    """A caller-owned entry."""

    key: K
    value: bytes


@dataclass(frozen=True, slots=True)
class KvPage(Generic[K]):
    """A page of caller-owned entries in key order.

    Attributes:
        entries: The entries; their keys have the type of the prefix that was passed.
        next_cursor: Pass it on to read the next page; None on the last one.
        unreadable: Entries of this page whose keys are not text, if text was requested.
    """

    entries: list[KvEntry[K]]
    next_cursor: str | None
    unreadable: tuple[UnreadableRecord, ...] = ()
