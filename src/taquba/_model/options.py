"""Option objects: frozen, validated once when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple, TypedDict, cast

from taquba._model import validate
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.validate import Duration, KvKey

PRIORITY_HIGH: Final = 100
PRIORITY_NORMAL: Final = 1000
PRIORITY_LOW: Final = 10_000
"""Priorities are unsigned 32-bit numbers; the lower number is claimed first."""

MAX_ATTEMPTS: Final = 2**31 - 1
"""A caller that sets this many attempts wants no limit."""
_DAY: Final = 24 * 3600
_NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})
_LEAST_DEDUP_WINDOW_MS: Final = 10 * 60 * 1000


class Policy(NamedTuple):
    """A `QueueConfig` in the units the transitions use: whole milliseconds."""

    max_attempts: int
    lease_ms: int
    priority: int
    backoff_base_ms: int
    backoff_max_ms: int
    retry_jitter: float
    keep_done_ms: int | None
    dead_retention_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Settings of a queue. Durations are seconds or `timedelta`.

    Attributes:
        max_attempts: Attempts before a job is dead-lettered, at least 1.
        lease_duration: How long a claim holds its job without being renewed.
        default_priority: Priority of jobs enqueued without one.
        retry_backoff_base: Wait before the second attempt; it doubles with each further one.
            0 retries at once.
        retry_backoff_max: Upper bound of that wait.
        retry_jitter: Fraction of the wait, 0 to 1, added at random to spread retries.
        keep_done_jobs: How long finished jobs stay readable; None removes them when they finish.
        dead_retention: How long dead letters are kept; None keeps them until they are removed.
    """

    max_attempts: int = 3
    lease_duration: Duration = 30
    default_priority: int = PRIORITY_NORMAL
    retry_backoff_base: Duration = 1
    retry_backoff_max: Duration = 300
    retry_jitter: float = 0.1
    keep_done_jobs: Duration | None = None
    dead_retention: Duration | None = 7 * _DAY

    def __post_init__(self) -> None:
        self.policy()
        if self.policy().backoff_max_ms < self.policy().backoff_base_ms:
            raise InvalidArgument(
                f"retry_backoff_max ({self.retry_backoff_max!r}) must not be shorter than "
                f"retry_backoff_base ({self.retry_backoff_base!r})"
            )

    def policy(self) -> Policy:
        """These settings in milliseconds, validated."""
        jitter = self.retry_jitter
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
            raise InvalidArgumentType(f"retry_jitter must be a number, not {jitter!r}")
        if not 0 <= jitter <= 1:
            raise InvalidArgument(f"retry_jitter must be between 0 and 1; got {jitter!r}")
        return Policy(
            validate.integer(self.max_attempts, "max_attempts", 1, MAX_ATTEMPTS),
            validate.duration_ms(self.lease_duration, "lease_duration", minimum=1),
            validate.integer(self.default_priority, "default_priority", 0, validate.MAX_PRIORITY),
            validate.duration_ms(self.retry_backoff_base, "retry_backoff_base"),
            validate.duration_ms(self.retry_backoff_max, "retry_backoff_max"),
            jitter,
            validate.optional_duration_ms(self.keep_done_jobs, "keep_done_jobs"),
            validate.optional_duration_ms(self.dead_retention, "dead_retention"),
        )


class InboxPolicy(NamedTuple):
    """An `InboxConfig` in whole milliseconds."""

    poll_ms: int
    idle_poll_ms: int
    dedup_window_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxConfig:
    """How an owner takes requests from the store's inbox. Durations are seconds or `timedelta`.

    Attributes:
        poll_interval: Wait between two looks at the inbox while there are requests. Each look that
            finds none doubles the wait.
        idle_poll_interval: The longest such wait. Each look is one LIST request on a bucket; a
            producer on the owner's machine also notifies the owner. Default: 5 seconds on a bucket,
            1 on a folder, 600 in memory.
        dedup_window: How long after a request was taken a repetition of it, or a request with the
            same custom id or idempotency key, makes no second job.
    """

    poll_interval: Duration = 0.2
    idle_poll_interval: Duration | None = None
    dedup_window: Duration = _DAY

    def __post_init__(self) -> None:
        policy = self.policy(validate.MAX_DURATION_MS)
        if policy.idle_poll_ms < policy.poll_ms:
            raise InvalidArgument(
                f"idle_poll_interval ({self.idle_poll_interval!r}) must not be shorter than "
                f"poll_interval ({self.poll_interval!r})"
            )

    def policy(self, default_idle_ms: int) -> InboxPolicy:
        """These settings in milliseconds, validated."""
        poll_ms = validate.duration_ms(self.poll_interval, "poll_interval", minimum=1)
        idle_ms = validate.optional_duration_ms(
            self.idle_poll_interval, "idle_poll_interval", minimum=1
        )
        if idle_ms is None:
            idle_ms = max(poll_ms, default_idle_ms)
        # How long a producer repeats a request that was sent once is limited by its own timeout.
        window_ms = validate.duration_ms(
            self.dedup_window, "dedup_window", minimum=_LEAST_DEDUP_WINDOW_MS
        )
        return InboxPolicy(poll_ms, idle_ms, window_ms)


class JobOptions(TypedDict, total=False):
    """Options of a job, whichever way it is enqueued.

    Attributes:
        run_at: Earliest start, timezone-aware; a past one starts at once. Not with `delay`.
        delay: Earliest start, from now, in seconds or as `timedelta`.
        priority: Unsigned 32-bit; lower first. Default: the queue's.
        max_attempts: Attempts before the job is a dead letter, at least 1. Default: the queue's.
        dedup_key: While a pending or scheduled job of the queue holds this key, there is no
            second one.
        job_id: Own id, 1 to 128 characters of ``[A-Za-z0-9_-]``.
    """

    run_at: datetime | None
    delay: Duration | None
    priority: int | None
    max_attempts: int | None
    dedup_key: str | None
    job_id: str | None


class EnqueueOptions(JobOptions, total=False):
    """Options of `Queue.enqueue`: those of an `EnqueueRequest`.

    Attributes:
        headers: Small string pairs that travel with the job: at most 128, of 64 KiB in all.
        kv_writes: Caller-owned entries written in the same commit, if the job is new.
    """

    headers: Mapping[str, str] | None
    kv_writes: Mapping[KvKey, bytes] | None


class ProducerOptions(EnqueueOptions, total=False):
    """Options of `Producer.enqueue` and `Service.enqueue`.

    Attributes:
        idempotency_key: Any text of 1 to 1024 UTF-8 bytes, from which the job's id is made, per
            queue: however often it is given, within the owner's window, one job is made. Not with
            `job_id`.
    """

    idempotency_key: str | None


@dataclass(frozen=True, slots=True, init=False)
class EnqueueRequest:
    """One job to enqueue, for `Queue.enqueue_batch` and `SettlementEffects`.

    Attributes:
        queue: Queue name, 1 to 255 UTF-8 bytes.
        payload: The job's content, opaque to taquba.
        run_at: Earliest start, timezone-aware; a past one starts at once. Not with `delay`.
        delay: Earliest start, from now, in seconds or as `timedelta`.
        priority: Unsigned 32-bit; lower first. Default: the queue's.
        max_attempts: Default: the queue's.
        dedup_key: While a pending or scheduled job of the queue holds this key, enqueueing
            returns that job and writes nothing.
        headers: Small string pairs that travel with the job: at most 128, of 64 KiB in all.
        job_id: Own id, 1 to 128 characters of ``[A-Za-z0-9_-]``; must be new.
        kv_writes: Caller-owned entries written in the same commit, if the job is new.
    """

    queue: str
    payload: bytes
    run_at: datetime | None = field(default=None, kw_only=True)
    delay: Duration | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    max_attempts: int | None = field(default=None, kw_only=True)
    dedup_key: str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False)
    job_id: str | None = field(default=None, kw_only=True)
    kv_writes: Mapping[KvKey, bytes] | None = field(default=None, kw_only=True)

    def __init__(
        self,
        queue: str,
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
    ) -> None:
        # By hand: every job passes here, and a frozen dataclass sets its fields slowly. The setters
        # stand below the class, in the order of its fields.
        _set_queue(self, validate.queue_name(queue))
        _set_payload(self, payload if type(payload) is bytes else validate.content(payload))
        if run_at is not None:
            validate.moment_ms(run_at, "run_at")
            if delay is not None:
                raise InvalidArgument("give run_at or delay, not both")
        _set_run_at(self, run_at)
        if delay is not None:
            validate.duration_ms(delay, "delay")
        _set_delay(self, delay)
        if priority is not None:
            validate.integer(priority, "priority", 0, validate.MAX_PRIORITY)
        _set_priority(self, priority)
        if max_attempts is not None:
            validate.integer(max_attempts, "max_attempts", 1, MAX_ATTEMPTS)
        _set_max_attempts(self, max_attempts)
        if dedup_key is not None:
            validate.dedup_key(dedup_key)
        _set_dedup_key(self, dedup_key)
        _set_headers(self, None if headers is None else validate.headers(headers))
        if job_id is not None:
            validate.job_id(job_id)
        _set_job_id(self, job_id)
        _set_kv_writes(self, None if kv_writes is None else validate.kv_writes(kv_writes))

    def run_at_ms(self, now_ms: int) -> int | None:
        """The start time in ms since the epoch, or None when the job may start at once."""
        if self.run_at is not None:
            run_at = validate.moment_ms(self.run_at, "run_at")
        elif self.delay is not None:
            run_at = now_ms + validate.duration_ms(self.delay, "delay")
        else:
            return None
        return run_at if run_at > now_ms else None


(
    _set_queue,
    _set_payload,
    _set_run_at,
    _set_delay,
    _set_priority,
    _set_max_attempts,
    _set_dedup_key,
    _set_headers,
    _set_job_id,
    _set_kv_writes,
) = (getattr(EnqueueRequest, name).__set__ for name in EnqueueRequest.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementEffects:
    """Changes that are applied in the same commit as a settlement.

    Attributes:
        enqueues: Follow-up jobs. Only a job whose dedup key is already held is skipped.
        kv_writes: Caller-owned entries to write.
        kv_deletes: Caller-owned entries to delete.
        kv_expected: Entries on which the decision was based, as they were read; None for one that
            was absent. If one of them is different by now, the settlement raises `EntryChanged`,
            and changes nothing. See `LeaseHandle.decides_again`.
        unless_cancelled: Raise `CancelRequested` instead, and change nothing, if the job was asked
            to cancel before the settlement is decided.

    Raises:
        InvalidArgument: One key would be written and deleted, or written twice with different
            values. A `str` key and its UTF-8 `bytes` are the same key.
    """

    enqueues: Sequence[EnqueueRequest] = ()
    kv_writes: Mapping[KvKey, bytes] = field(default_factory=dict[KvKey, bytes])
    kv_deletes: Sequence[KvKey] = ()
    kv_expected: Mapping[KvKey, bytes | None] | None = None
    unless_cancelled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.enqueues, EnqueueRequest):
            raise InvalidArgumentType(f"enqueues must be a list, not the single {self.enqueues!r}")
        enqueues = tuple(self.enqueues)
        for request in enqueues:
            if not isinstance(request, EnqueueRequest):
                raise InvalidArgumentType(f"enqueues must contain EnqueueRequest, not {request!r}")
        if isinstance(self.kv_deletes, (str, bytes)):
            raise InvalidArgumentType(
                f"kv_deletes must be a list of keys, not the single key {self.kv_deletes!r}"
            )
        object.__setattr__(self, "enqueues", enqueues)
        writes = validate.kv_writes(self.kv_writes)
        deletes = tuple(validate.kv_key(key) for key in self.kv_deletes)
        if deletes:
            validate.kv_changes(writes, deletes)
        if enqueues:
            check_entries_of(enqueues, writes, deletes)
        object.__setattr__(self, "kv_writes", writes)
        object.__setattr__(self, "kv_deletes", deletes)
        if self.kv_expected is not None:
            object.__setattr__(self, "kv_expected", validate.kv_expected(self.kv_expected))


def check_entries_of(
    enqueues: Sequence[EnqueueRequest],
    writes: Mapping[bytes, bytes] = _NOTHING,
    deletes: Sequence[bytes] = (),
) -> None:
    """Refuse entries of jobs that are undone in the same commit, by effects or another job.

    Of several jobs with the same dedup key, only one is made.
    """
    deleted = frozenset(deletes)
    seen: dict[bytes, tuple[bytes, tuple[str, str] | None]] = {}
    for request in enqueues:
        if not request.kv_writes:
            continue
        dedup = None if request.dedup_key is None else (request.queue, request.dedup_key)
        # The request has turned its keys into bytes.
        for name, value in cast("Mapping[bytes, bytes]", request.kv_writes).items():
            if name in deleted or writes.get(name, value) != value:
                raise InvalidArgument(
                    f"the key {name!r} is in the kv_writes of a job in enqueues, and the effects "
                    "delete it or write something else there: leave it out of one of them"
                )
            other, by = seen.setdefault(name, (value, dedup))
            if other != value and (dedup is None or by != dedup):
                raise InvalidArgument(
                    f"the key {name!r} is in the kv_writes of two jobs of one commit, which write "
                    "different values there: leave it out of one of them"
                )
