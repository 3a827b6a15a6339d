"""The rows that an end, a submission or a sweep writes: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from taquba import JobRecord, KvKey, SettlementEffects
from taquba.extending.expiries import expiry_key
from taquba_jobs._errors import FailureKind
from taquba_jobs._job import Job
from taquba_jobs._rows import (
    EXPIRIES,
    Expiry,
    Outcome,
    Submission,
    encode,
    outcome_key,
    progress_key,
)

NAME: Final = "jobs.name"
VERSION: Final = "jobs.version"
KEY: Final = "jobs.key"
FINGERPRINT: Final = "jobs.fingerprint"
RESERVED: Final = "jobs."
"""Headers that start with this are the package's own."""


class Stored(NamedTuple):
    """A packed result: stored here, or in an object that was already written."""

    data: bytes | None
    object_key: str | None = None
    upload_marker: str | None = None
    """Key of the marker that removes the object if it is never named."""


class Failure(NamedTuple):
    """A terminal failure."""

    kind: FailureKind
    message: str


def end(
    job: JobRecord,
    result: Stored | Failure,
    now_ms: int,
    retention_ms: int | None,
    *,
    reported: bool,
) -> SettlementEffects:
    """The effects of the ack or the dead letter.

    Args:
        job: The job.
        result: How it ended.
        now_ms: The time.
        retention_ms: How long outcomes are kept; None means forever.
        reported: Whether this attempt may have written its progress; earlier attempts count in any
            case.
    """
    expires_at = None if retention_ms is None else now_ms + retention_ms
    key = job.headers.get(KEY)
    deletes: list[str] = []
    if isinstance(result, Failure):
        outcome = Outcome(result.kind.value, result.message, None, None, expires_at)
    else:
        outcome = Outcome(None, None, result.data, result.object_key, expires_at)
        if result.upload_marker is not None:
            deletes.append(result.upload_marker)
    writes: dict[KvKey, bytes] = {outcome_key(job.id): encode(outcome)}
    if isinstance(result, Failure) and result.kind is FailureKind.CANCELLED:
        # Its function did not run to an end: the same submission may come again.
        deletes += [] if key is None else [key]
        key = None
    elif key is not None:
        submission = Submission(job.id, bytes.fromhex(job.headers[FINGERPRINT]), True, expires_at)
        writes[key] = encode(submission)
    if expires_at is not None:
        writes[expiry_key(EXPIRIES, expires_at, job.id)] = encode(Expiry(job.id, key, None))
    if reported or job.attempts > 1 or job.last_error is not None:
        deletes.append(progress_key(job.id))
    return SettlementEffects(kv_writes=writes, kv_deletes=deletes)


def merged(first: SettlementEffects, second: SettlementEffects) -> SettlementEffects:
    """Both effects in one commit."""
    return SettlementEffects(
        enqueues=[*first.enqueues, *second.enqueues],
        kv_writes={**first.kv_writes, **second.kv_writes},
        kv_deletes=[*first.kv_deletes, *second.kv_deletes],
        kv_expected={**(first.kv_expected or {}), **(second.kv_expected or {})},
        unless_cancelled=first.unless_cancelled or second.unless_cancelled,
    )


class Answer(Enum):
    """The state that a submission with an idempotency key finds."""

    NOTHING = auto()
    FINISHED = auto()
    UNFINISHED = auto()
    """A job that has not ended, if it still exists."""


def look_up(submission: Submission | None, now_ms: int) -> Answer:
    """Evaluate the row of an idempotency key."""
    if submission is None or is_over(submission.expires_at, now_ms):
        return Answer.NOTHING
    return Answer.FINISHED if submission.finished else Answer.UNFINISHED


def is_over(expires_at: int | None, now_ms: int) -> bool:
    """Whether an outcome must no longer be shown, whether swept or not."""
    return expires_at is not None and expires_at <= now_ms


def job_headers(
    own: Mapping[str, str] | None,
    job: Job[Any, ..., object],
    key: str | None = None,
    fingerprint: bytes = b"",
) -> dict[str, str]:
    """The headers of a new job; a key comes with the fingerprint of the job's arguments."""
    headers = {**(own or {}), NAME: job.name, VERSION: str(job.version)}
    if key is not None:
        headers |= {KEY: key, FINGERPRINT: fingerprint.hex()}
    return headers
