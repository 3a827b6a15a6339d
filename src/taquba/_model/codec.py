"""Values: MessagePack arrays. Each encoder has its decoder beside it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, cast, get_args, get_origin, get_type_hints

import msgpack

from taquba._model import keys
from taquba._model.clock import from_ms
from taquba._model.describing import describe
from taquba._model.errors import StoreError, UnreadableJob
from taquba._model.records import (
    AttemptOutcome,
    Counters,
    Job,
    JobAttempt,
    JobStatus,
    Suspicion,
)

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def _unpack(value: bytes) -> list[object]:
    fields: list[object] = msgpack.unpackb(value)
    return fields


def encode_job(job: Job) -> bytes:
    return _pack(job[2:])


_MOST: Final = 2**64
"""Jobs that no queue has."""

UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""Exceptions of decoding a damaged record, or one of another version."""


def decode_job(queue: str, job_id: str, value: bytes) -> Job:
    """The job of a record; raises `UnreadableJob`."""
    try:
        fields = _unpack(value)
        if (shape := tuple(map(type, fields))) not in _shapes:
            _check_shape(shape)
        job = Job(job_id, queue, *fields)  # type: ignore[arg-type]
        if job.headers and not {*map(type, job.headers), *map(type, job.headers.values())} <= {str}:
            raise TypeError("the headers of a job are text")
        return job if job.suspicion is None else job._replace(suspicion=_suspicion(job.suspicion))
    except UNREADABLE as error:
        raise UnreadableJob(queue, job_id, describe(error)) from error


_FIELDS: Final = tuple(
    # As MessagePack brings them back.
    tuple(
        list if kind is Suspicion else get_origin(kind) or kind
        for kind in get_args(hint) or (hint,)
    )
    for hint in list(get_type_hints(Job).values())[2:]
)
"""The types that each stored field of a job may have."""

_shapes: Final[set[tuple[type, ...]]] = set()
"""Combinations of types that were checked and may be; there are a few in practice."""


def _check_shape(shape: tuple[type, ...]) -> None:
    for name, kind, allowed in zip(Job._fields[2:], shape, _FIELDS, strict=False):
        if kind not in allowed:
            raise TypeError(f"its {name} is of the type {kind.__name__}")
    _shapes.add(shape)


def _suspicion(fields: Sequence[object]) -> Suspicion:
    suspicion = Suspicion(*fields)  # type: ignore[arg-type]
    if tuple(map(type, suspicion)) != (int, int, bool):
        raise TypeError("its suspicion is not two numbers and a bool")
    return suspicion


def decode_row(key: bytes, value: bytes) -> Job:
    """The job of a row of any state space; raises `UnreadableJob`."""
    try:
        queue, job_id = keys.owner_of(key)
    except UNREADABLE as error:
        raise UnreadableJob("", repr(key), describe(error)) from error
    return decode_job(queue, job_id, value)


class Location(NamedTuple):
    """The index entry of a job.

    A live job is pending or claimed: the index does not say which, so a claim need not rewrite it.
    `position` is the priority of a live job, and the time in the key of any other.
    """

    status: JobStatus
    queue: str
    position: int

    def key(self, job_id: str) -> bytes:
        """Key of the record; of the pending row for a live job."""
        match self.status:
            case JobStatus.SCHEDULED:
                return keys.scheduled(self.position, self.queue, job_id)
            case JobStatus.DONE:
                return keys.finished(keys.DONE, self.queue, self.position, job_id)
            case JobStatus.DEAD:
                return keys.finished(keys.DEAD, self.queue, self.position, job_id)
            case _:
                return keys.pending(self.queue, self.position, job_id)


_STATUS_CODES: Final = (JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.DONE, JobStatus.DEAD)
_CODES: Final = {status: code for code, status in enumerate(_STATUS_CODES)}


def encode_location(status: JobStatus, queue: str, position: int) -> bytes:
    return _pack((_CODES[status], queue, position))


@lru_cache(maxsize=4096)
def encode_live_location(queue: str, priority: int) -> bytes:
    """The location of a pending or claimed job: the same for all of a queue and priority."""
    return encode_location(JobStatus.PENDING, queue, priority)


def decode_location(job_id: str, value: bytes) -> Location:
    """Where a job is; raises `StoreError` where that cannot be read."""
    try:
        code, queue, position = msgpack.unpackb(value)
        location = Location(_STATUS_CODES[code], queue, position)
        # Of the row: it is made of all that is in it.
        location.key(job_id)
    except (*UNREADABLE, struct.error) as error:
        raise StoreError(
            f"the index cannot be read where it says where job {job_id!r} is "
            f"({describe(error)}): restore the store from a backup",
            permanent=True,
        ) from error
    return location


def encode_counters(counters: Counters) -> bytes:
    return _pack(counters)


def decode_counters(queue: str, value: bytes) -> Counters:
    """The counters of a queue; raises `StoreError` where they cannot be read."""
    try:
        counters = Counters(*_unpack(value))  # type: ignore[arg-type]
        if all(type(count) is int and 0 <= count < _MOST for count in counters):
            return counters
        reason = f"{counters!r:.200}"
    except UNREADABLE as error:
        reason = describe(error)
    raise StoreError(
        f"the counters of queue {queue!r} cannot be read: {reason}; restore the store from a "
        "backup",
        permanent=True,
    )


def encode_attempt(
    attempt: int,
    claimed_at: int | None,
    recorded_at: int,
    outcome: AttemptOutcome,
    error: str | None,
    *,
    counted: bool,
    worker: str | None,
) -> bytes:
    return _pack((attempt, claimed_at, recorded_at, outcome.value, error, counted, worker))


def decode_attempt(value: bytes) -> JobAttempt:
    # Older entries have no worker.
    attempt, claimed_at, recorded_at, outcome, error, counted, *more = msgpack.unpackb(value)
    return JobAttempt(
        attempt=attempt,
        claimed_at=None if claimed_at is None else from_ms(claimed_at),
        recorded_at=from_ms(recorded_at),
        outcome=AttemptOutcome(outcome),
        error=error,
        counted=counted,
        worker=more[0] if more else None,
    )


_STAMP_FIELDS: Final = 3


def encode_meta(created_at: int, store_id: str) -> bytes:
    """A store's stamp. `store_id` names the folder of its objects: stores may share a bucket."""
    return _pack((keys.FORMAT_VERSION, created_at, store_id))


def decode_store_id(value: bytes) -> str:
    """The id in a stamp of this layout."""
    return str(_unpack(value)[2])


class Closing(NamedTuple):
    """What an owner that closes a store leaves in it.

    Attributes:
        at: When, in ms.
        openings: How often the store had been opened for writing by then.
    """

    at: int
    openings: int


def encode_closing(closing: Closing) -> bytes:
    """The row of a clean close."""
    return _pack(closing)


def decode_closing(value: bytes) -> Closing:
    """The reverse of `encode_closing`."""
    at, openings = cast("list[int]", _unpack(value))
    return Closing(at, openings)


def decode_format_version(value: bytes) -> int:
    """The layout with which a store was stamped; -1 if the stamp cannot be read."""
    try:
        fields = msgpack.unpackb(value)
        version = fields[0]
        complete = len(fields) == _STAMP_FIELDS
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        return -1
    # The content of a stamp is known only for this layout.
    readable = isinstance(version, int) and (complete or version != keys.FORMAT_VERSION)
    return version if readable else -1
