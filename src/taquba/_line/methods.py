"""What producers call on the owner, and how a job's record goes over the socket."""

from __future__ import annotations

from typing import Final, cast

from taquba._model.codec import decode_job, encode_job
from taquba._model.records import JobRecord, JobStatus

BATCH: Final = "batch"
"""``(name, batch)``: take a batch; returns when it is durable."""

GET_JOB: Final = "get_job"
"""``(id)``: a record, or None."""

STATS: Final = "stats"
"""``(queue)``: the fields of `QueueStats`."""

WAIT: Final = "wait"
"""``(id, ms)``: the fields of `WaitOutcome`."""

GONE: Final = "gone"
"""The kind of failure of who owns the store no more: another one may be there."""


def record_fields(record: JobRecord | None) -> object:
    """A record, or None, as MessagePack can hold it."""
    if record is None:
        return None
    job = record._job  # pyright: ignore[reportPrivateUsage] - its fields are what is sent
    return record.status.value, job.queue, job.id, encode_job(job)


def as_record(fields: object) -> JobRecord | None:
    """What `record_fields` made."""
    if fields is None:
        return None
    status, queue, job_id, row = cast("tuple[str, str, str, bytes]", fields)
    return JobRecord(decode_job(queue, job_id, row), JobStatus(status))
