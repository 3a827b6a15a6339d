"""Reading jobs and their outcomes, through the owner's queue or a reader."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, ParamSpec, TypeVar, cast

from taquba import (
    AttemptOutcome,
    JobNotFound,
    JobRecord,
    JobStatus,
    PayloadMissing,
    ReadableStore,
    Store,
    StoreError,
)
from taquba.extending import WordEnum
from taquba.extending.named import read_named
from taquba.extending.times import from_ms
from taquba.extending.walks import pages
from taquba_jobs._decisions import is_over
from taquba_jobs._errors import FailureKind, JobFailed
from taquba_jobs._job import Job
from taquba_jobs._rows import (
    PROGRESS,
    Outcome,
    ProgressRow,
    decode,
    outcome_key,
    progress_key,
)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class JobState(WordEnum):
    """The state of a job."""

    SCHEDULED = "scheduled"
    """It waits for its time, for a retry, or for a program that knows it."""
    PENDING = "pending"
    """It is ready for a worker."""
    RUNNING = "running"
    """A worker has it."""
    SUCCEEDED = "succeeded"
    """It has a result."""
    FAILED = "failed"
    """It failed for good; awaiting it raises `JobFailed`, which says why."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The last progress report of a running job.

    Attributes:
        done: How much is done, in the job's own unit.
        total: How much there is in total, if the job knows.
        note: A short text.
        reported_at: When it was reported.
    """

    done: float
    total: float | None
    note: str | None
    reported_at: datetime


_LIVE: Final = {
    JobStatus.SCHEDULED: JobState.SCHEDULED,
    JobStatus.PENDING: JobState.PENDING,
    JobStatus.CLAIMED: JobState.RUNNING,
    JobStatus.DEAD: JobState.FAILED,
}


async def read_outcome(
    source: ReadableStore, job_id: str, *, durable: bool = False
) -> Outcome | None:
    """How a job ended, perhaps durably; None while it has not, and once that has been removed."""
    row = await source.kv_get(outcome_key(job_id), durable=durable)
    if row is None:
        return None
    outcome = decode(Outcome, outcome_key(job_id), row)
    # A reader does not have the queue's clock; for it, an outcome exists until it is swept.
    if is_over(outcome.expires_at, source.clock.time_ms()) and isinstance(source, Store):
        return None
    return outcome


async def result_of(source: ReadableStore, job: Job[S, P, T], job_id: str, outcome: Outcome) -> T:
    """The result in an outcome; raises `JobNotFound` if retention has removed it meanwhile.

    It raises `StoreError` if the result is an object that is not found.
    """
    if outcome.failure is not None:
        raise JobFailed(job_id, FailureKind(outcome.failure), outcome.message or "")
    data = outcome.data
    if outcome.object_key is not None:

        async def is_kept() -> bool:
            return await read_outcome(source, job_id) == outcome

        data = await read_named(source, outcome.object_key, is_kept)
    if data is None:
        raise JobNotFound(job_id)
    try:
        return cast("T", job.signature.unpack_result(data))
    except ValueError as error:
        raise JobFailed(job_id, FailureKind.INVALID, str(error)) from error


async def lost(source: ReadableStore, record: JobRecord | None) -> JobFailed | None:
    """The failure of a job that became a dead letter without an outcome.

    None for any other job, including a dead letter whose outcome has been removed.
    """
    if record is None or record.status is not JobStatus.DEAD:
        return None
    ends = await source.attempt_history(record.id)
    if ends and ends[-1].outcome is AttemptOutcome.DEAD_LETTERED and _has_payload(record):
        # Its function ended, with an outcome.
        return None
    if record.cancel_requested:
        return JobFailed(record.id, FailureKind.CANCELLED, "it was cancelled, and its worker died")
    return JobFailed(record.id, FailureKind.LOST, record.last_error or "its attempts are used up")


def _has_payload(record: JobRecord) -> bool:
    try:
        _ = record.payload
    except PayloadMissing:
        return False
    return True


async def fetch_result(source: ReadableStore, job: Job[S, P, T], job_id: str) -> T | None:
    """Return the result of a job, through the owner's queue or a `taquba.QueueReader` anywhere.

    Returns:
        The result; None while the job has not ended, and once its result has been removed.

    Raises:
        JobFailed: The job has failed for good.
    """
    outcome = await read_outcome(source, job_id)
    if outcome is not None:
        try:
            return await result_of(source, job, job_id, outcome)
        except JobNotFound:
            return None
    failure = await lost(source, await source.get_job(job_id))
    if failure is not None:
        raise failure
    return None


async def fetch_status(source: ReadableStore, job_id: str) -> JobState | None:
    """Return the state of a job; None if it does not exist, or its outcome has been removed."""
    record = await source.get_job(job_id)
    if record is not None and record.status in _LIVE:
        return _LIVE[record.status]
    outcome = await read_outcome(source, job_id)
    if outcome is None:
        return None
    return JobState.SUCCEEDED if outcome.failure is None else JobState.FAILED


async def fetch_progress(source: ReadableStore, job_id: str) -> JobProgress | None:
    """Return a job's last progress report; None if there is none, or the job has ended."""
    row = await source.kv_get(progress_key(job_id))
    return None if row is None else _progress(progress_key(job_id), row)


async def all_progress(
    source: ReadableStore,
) -> AsyncGenerator[tuple[str, JobProgress | StoreError]]:
    """Ids of running jobs, each with its last report, or the reason why that cannot be read."""
    async for page in pages(lambda cursor: source.kv_scan(PROGRESS, cursor)):
        for entry in page.entries:
            job_id = entry.key.removeprefix(PROGRESS)
            try:
                yield job_id, _progress(entry.key, entry.value)
            except StoreError as error:
                yield job_id, error


def _progress(key: str, row: bytes) -> JobProgress:
    found = decode(ProgressRow, key, row)
    return JobProgress(found.done, found.total, found.note, from_ms(found.reported_at))
