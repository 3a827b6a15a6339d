"""Rows under ``jobs/``: keys, and values as MessagePack arrays that start with a format number.

    jobs/key/<job name>/<idempotency key>    Submission
    jobs/outcome/<job id>                    Outcome
    jobs/expiry/<ms, 14 digits>/<...>        Expiry: what to remove then; in order of time
    jobs/progress/<job id>                   Progress

Large results are caller-owned objects, ``jobs/results/<job id>/<unique>``.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import msgpack

from taquba import StoreError
from taquba.extending import UNREADABLE, describe

_FORMAT: Final = 1

EXPIRIES: Final = "jobs/expiry/"
PROGRESS: Final = "jobs/progress/"


class Submission(NamedTuple):
    """The job of an idempotency key."""

    job_id: str
    fingerprint: bytes
    finished: bool = False
    expires_at: int | None = None
    """Ms; set when it is finished, unless outcomes are kept forever."""


class Outcome(NamedTuple):
    """How a job ended; `failure` is None for a success."""

    failure: str | None
    message: str | None
    data: bytes | None
    """The packed result; None for a failure, and for a result that is an object."""
    object_key: str | None
    expires_at: int | None
    """Ms; None keeps it forever."""


class Expiry(NamedTuple):
    """What to remove at a time: an outcome with its submission, or an object that nothing names."""

    job_id: str | None
    submission_key: str | None
    object_key: str | None


class ProgressRow(NamedTuple):
    """The last progress report of a running job."""

    done: float
    total: float | None
    note: str | None
    reported_at: int


Row = TypeVar("Row", Submission, Outcome, Expiry, ProgressRow)


def encode(row: Submission | Outcome | Expiry | ProgressRow) -> bytes:
    packed = msgpack.packb([_FORMAT, *row])
    assert packed is not None
    return packed


class Damaged(StoreError):
    """A row cannot be read."""


def decode(kind: type[Row], key: str, data: bytes) -> Row:
    """A row.

    Raises:
        Damaged: It is not such a row, or damaged.
        StoreError: A newer version of this package has written it.
    """
    try:
        version, *fields = msgpack.unpackb(data)
        if version == _FORMAT:
            return kind(*fields)
        newer = int(version) > _FORMAT
    except UNREADABLE as error:
        raise _damaged(kind, key, describe(error)) from error
    if not newer:
        raise _damaged(kind, key, f"its format is {version!r}")
    raise StoreError(
        f"the entry {key!r} was written by a newer taquba_jobs (format {version}): upgrade",
        permanent=True,
    )


def _damaged(kind: type[Row], key: str, why: str) -> Damaged:
    what = kind.__name__.removesuffix("Row").lower()
    return Damaged(
        f"the entry {key!r} should be a job's {what} and cannot be read ({why}): delete it",
        permanent=True,
    )


def submission_key(job: str, key: str) -> str:
    return f"jobs/key/{job}/{key}"


def idempotency_key(key: str) -> str:
    """The caller's part of a `submission_key`."""
    return key.split("/", 3)[3]


def outcome_key(job_id: str) -> str:
    return f"jobs/outcome/{job_id}"


def progress_key(job_id: str) -> str:
    return PROGRESS + job_id


def object_folder(job_id: str) -> str:
    return f"jobs/results/{job_id}"
