"""The methods that producers call on the owner, and the form of a job's record."""

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

STORE: Final = "store"
"""``(name, arguments)``: carry out a method of the handle; its result, as `values` makes it."""

ABOUT: Final = "about"
"""``()``: the id of the store."""

RELEASE: Final = "release"
"""``(*tokens)``: give claims back."""

CANCELLED: Final = "cancelled"
"""Told of a claim, by its token: its job was asked to cancel."""

OVER: Final = "over"
"""Told of a claim, by its token: it no longer holds its job."""

GONE: Final = "gone"
"""The kind of failure of a former owner: there may be another one."""

CLOSED: Final = "closed"
"""The kind of failure of an owner that closes: it has not carried out the call."""


def record_fields(record: JobRecord | None) -> object:
    """A record, or None, in a form that MessagePack can hold."""
    if record is None:
        return None
    job = record._job  # pyright: ignore[reportPrivateUsage] - its fields are what is sent
    return record.status.value, job.queue, job.id, encode_job(job)


def as_record(fields: object) -> JobRecord | None:
    """Read the form that `record_fields` made."""
    if fields is None:
        return None
    status, queue, job_id, row = cast("tuple[str, str, str, bytes]", fields)
    return JobRecord(decode_job(queue, job_id, row), JobStatus(status))
