"""The JSON output of commands. The keys are stable; times are ISO 8601 in UTC."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime

from taquba import InboxStats, JobAttempt, JobRecord, KvEntry, Member, QueueStats, RejectedBatch

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Document = dict[str, Json]


def json_moment(value: datetime | None) -> str | None:
    """ISO 8601 with milliseconds, in UTC."""
    if value is None:
        return None
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def content(name: str, value: bytes | None) -> Document:
    """Bytes as text if they are UTF-8, otherwise in base64; ``{name}_encoding`` says which."""
    if value is None:
        return {name: None, f"{name}_encoding": None}
    try:
        return {name: value.decode(), f"{name}_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {name: base64.b64encode(value).decode(), f"{name}_encoding": "base64"}


def stats(value: QueueStats) -> Document:
    return asdict(value)


def inbox(value: InboxStats, rejected: Iterable[RejectedBatch]) -> Document:
    batches: list[Json] = [
        asdict(batch) | {"sent_at": json_moment(batch.sent_at)} for batch in rejected
    ]
    return asdict(value) | {
        "oldest_at": json_moment(value.oldest_at),
        "rejected_batches": batches,
    }


def job(value: JobRecord) -> Document:
    """A job without its payload."""
    headers: Mapping[str, str] = value.headers
    return {
        "id": value.id,
        "queue": value.queue,
        "status": value.status.value,
        "priority": value.priority,
        "attempts": value.attempts,
        "max_attempts": value.max_attempts,
        "enqueued_at": json_moment(value.enqueued_at),
        "run_at": json_moment(value.run_at),
        "claimed_at": json_moment(value.claimed_at),
        "completed_at": json_moment(value.completed_at),
        "failed_at": json_moment(value.failed_at),
        "last_error": value.last_error,
        "dedup_key": value.dedup_key,
        "headers": dict(headers),
        "cancel_requested": value.cancel_requested,
        "suspect": value.suspect,
        "worker": value.worker,
        "woken_at": json_moment(value.woken_at),
        "payload_ref": value.payload_ref,
    }


def job_with_payload(value: JobRecord, payload: bytes | None) -> Document:
    """A job with its payload; None if the payload's object is missing."""
    return job(value) | content("payload", payload) | content("wake_payload", value.wake_payload)


def attempt(value: JobAttempt) -> Document:
    return {
        "attempt": value.attempt,
        "claimed_at": json_moment(value.claimed_at),
        "recorded_at": json_moment(value.recorded_at),
        "outcome": value.outcome.value,
        "counted": value.counted,
        "error": value.error,
        "worker": value.worker,
    }


def member(value: Member) -> Document:
    running: list[Json] = [
        {"id": job.job_id, "queue": job.queue, "since": json_moment(job.since)}
        for job in value.running
    ]
    return {
        "id": value.id,
        "host": value.host,
        "pid": value.pid,
        "version": value.version,
        "role": value.role,
        "since": json_moment(value.since),
        "places": dict(value.places),
        "running": running,
    }


def entry(value: KvEntry[bytes]) -> Document:
    return content("key", value.key) | content("value", value.value)
