"""Reading jobs: one by id, listings, histories."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from taquba._engine.reads import Reads
from taquba._model import keys, validate
from taquba._model.codec import (
    UNREADABLE,
    Location,
    decode_attempt,
    decode_job,
    decode_location,
    decode_row,
)
from taquba._model.errors import (
    InvalidArgument,
    PayloadDamaged,
    PayloadMissing,
    StoreError,
    UnreadableJob,
)
from taquba._model.records import (
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    UnreadableRecord,
    with_damage,
    with_payload,
)
from taquba._objects.payloads import PayloadReads
from taquba._queue.in_slices import in_slices

_log: Final = logging.getLogger(__name__)

MAX_PAGE: Final = 10_000
"""Largest `limit` of a listing."""

_MOST_READS: Final = 100

_SPACES: Final = {
    JobStatus.PENDING: keys.PENDING,
    JobStatus.CLAIMED: keys.CLAIMED,
    JobStatus.DONE: keys.DONE,
    JobStatus.DEAD: keys.DEAD,
}


class FoundRow(NamedTuple):
    """A job's row; `location.status` tells pending and claimed apart."""

    location: Location
    key: bytes
    value: bytes


async def locate(reads: Reads, job_id: str) -> Location | None:
    """The index entry of a job, in one read; None if there is no such job."""
    entry = await reads.get(keys.index(job_id))
    return None if entry is None else decode_location(job_id, entry)


async def locate_row(reads: Reads, job_id: str) -> FoundRow | None:
    """Follow the index to a job's row; reads again if the job moved between two reads."""
    for _ in range(_MOST_READS):
        location = await locate(reads, job_id)
        if location is None:
            return None
        key = location.key(job_id)
        value = await reads.get(key)
        if value is not None:
            return FoundRow(location, key, value)
        if location.status is JobStatus.PENDING:
            key = keys.claimed(location.queue, job_id)
            value = await reads.get(key)
            if value is not None:
                return FoundRow(location._replace(status=JobStatus.CLAIMED), key, value)
    raise StoreError(f"job {job_id!r} moved {_MOST_READS} times while it was being read")


async def get_job(reads: Reads, payloads: PayloadReads, job_id: str) -> JobRecord | None:
    """A job with its payload, which the record lacks if its object is gone."""
    record = await _record(reads, job_id)
    while record is not None and record.payload_ref is not None:
        loaded = await _loaded(payloads, record, record.payload_ref)
        if loaded is not None:
            return loaded
        # It may have left the queue since then, and another job may have its id.
        newer = await _record(reads, job_id)
        if newer is not None and newer.payload_ref == record.payload_ref:
            return newer
        record = newer
    return record


async def _loaded(payloads: PayloadReads, record: JobRecord, ref: str) -> JobRecord | None:
    """A record with the content of its payload's object, or None if there is none."""
    try:
        payload = await payloads.fetch(ref)
    except PayloadDamaged as damage:
        # A payload that cannot be read hides neither other jobs of a listing nor other parts of its
        # own.
        return with_damage(record, damage)
    return None if payload is None else with_payload(record, payload)


async def _record(reads: Reads, job_id: str) -> JobRecord | None:
    row = await locate_row(reads, job_id)
    if row is None:
        return None
    job = decode_job(row.location.queue, job_id, row.value)
    return JobRecord(job, row.location.status)


def lacks_payload(record: JobRecord) -> bool:
    """Whether the object of a job's large payload was not found."""
    try:
        _ = record.payload
    except PayloadDamaged:
        return False
    except PayloadMissing:
        return True
    return False


async def payload_refs(reads: Reads, job_ids: Sequence[str]) -> list[str | None]:
    """The names of the payload objects in the records of jobs; None also if there is no job."""

    async def read(job_id: str) -> str | None:
        record = await _record(reads, job_id)
        return None if record is None else record.payload_ref

    return await in_slices(read, job_ids)


async def list_jobs(
    reads: Reads,
    payloads: PayloadReads | None,
    queue: str,
    status: JobStatus,
    cursor: str | None,
    limit: int,
) -> JobPage:
    """A page of jobs, with their payloads; without the large ones if `payloads` is None."""
    page = await _page(reads, queue, status, cursor, limit)
    if payloads is None or all(record.payload_ref is None for record in page.jobs):
        return page
    loaded = await in_slices(partial(_with_payload, reads, payloads), page.jobs)
    left = [record for record in loaded if record is not None]
    return JobPage(left, page.next_cursor, page.unreadable)


async def _with_payload(
    reads: Reads, payloads: PayloadReads, record: JobRecord
) -> JobRecord | None:
    """A listed job with its payload; None if it has left the queue since then."""
    if record.payload_ref is None:
        return record
    loaded = await _loaded(payloads, record, record.payload_ref)
    if loaded is not None:
        return loaded
    newer = await _record(reads, record.id)
    return record if newer is not None and newer.payload_ref == record.payload_ref else None


async def _page(
    reads: Reads, queue: str, status: JobStatus, cursor: str | None, limit: int
) -> JobPage:
    validate.integer(limit, "limit", 1, MAX_PAGE)
    if status is JobStatus.SCHEDULED:
        # The space is ordered by time over all queues: rows of other queues are skipped.
        prefix = keys.SCHEDULED
    else:
        prefix = keys.queue_prefix(_SPACES[status], queue)
    start = prefix if cursor is None else decode_cursor(cursor, prefix)
    jobs: list[JobRecord] = []
    unreadable: list[UnreadableRecord] = []
    last = b""
    scan = reads.scan(
        start, keys.prefix_end(prefix), after=cursor is not None, batch=min(limit, 256)
    )
    async for rows in scan:
        for key, value in rows:
            if len(jobs) + len(unreadable) == limit:
                return JobPage(jobs, encode_cursor(last), tuple(unreadable))
            try:
                job = decode_row(key, value)
            except UnreadableJob as error:
                if error.queue in (queue, ""):
                    unreadable.append(_unreadable(error))
                    last = key
                continue
            if job.queue == queue:
                jobs.append(JobRecord(job, status))
                last = key
    return JobPage(jobs, None, tuple(unreadable))


def _unreadable(error: UnreadableJob) -> UnreadableRecord:
    return UnreadableRecord(name=error.job_id, key=error.job_id.encode(), reason=str(error))


async def attempt_history(reads: Reads, job_id: str) -> list[JobAttempt]:
    attempts: list[JobAttempt] = []
    async for rows in reads.scan_prefix(keys.history_prefix(job_id)):
        for key, value in rows:
            try:
                attempts.append(decode_attempt(value))
            except UNREADABLE as error:
                _log.warning("the entry %r of a job's history cannot be read: %s", key, error)
    return attempts


def known_status(value: JobStatus | str) -> JobStatus:
    try:
        return JobStatus(value)
    except ValueError:
        known = ", ".join(status.value for status in JobStatus)
        raise InvalidArgument(f"status must be one of {known}; got {value!r}") from None


def encode_cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def decode_cursor(cursor: str, prefix: bytes) -> bytes:
    """The key in a cursor, which must come from a listing of the same kind."""
    try:
        key = base64.urlsafe_b64decode(validate.text(cursor, "cursor"))
    except (binascii.Error, ValueError):
        key = b""
    if not key.startswith(prefix):
        raise InvalidArgument(
            f"cursor {cursor!r} does not come from this listing; pass a page's next_cursor"
        )
    return key
