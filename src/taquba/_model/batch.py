"""Batches: requests on their way from a producer to the owner, and the bytes that carry them.

A batch lands whole or not at all. Its name is a ULID that its producer draws once and keeps when
it sends the batch again, so that the owner can tell a repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import msgpack

from taquba._model.clock import from_ms
from taquba._model.options import EnqueueRequest

BATCH_FORMAT: Final = 1
"""Version of the bytes. An owner refuses a batch in one that it does not know."""

MAX_BATCH_JOBS: Final = 10_000
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""An owner refuses larger ones: it holds some of them in memory at a time."""

_MAGIC: Final = "taquba batch"
_REQUEST_FIELDS: Final = 10
_packer: Final = msgpack.Packer(use_bin_type=True, autoreset=True)


class MalformedBatch(Exception):
    """These bytes are no batch that this version may take; the message says why."""


class Batch(NamedTuple):
    """A batch as the owner reads it.

    Attributes:
        name: Its name.
        sent_at: When it was made, in ms, by the producer's clock.
        requests: Each with a job id.
        own_ids: Ids that a caller chose, so that two batches may both have them.
    """

    name: str
    sent_at: int
    requests: Sequence[EnqueueRequest]
    own_ids: frozenset[str]


def encode_request(request: EnqueueRequest, job_id: str, now_ms: int) -> bytes:
    """A request as a part of a batch.

    Args:
        request: What is wanted.
        job_id: The id of its job.
        now_ms: What a delay counts from, in ms since the epoch.
    """
    return bytes(
        _packer.pack(
            (
                request.queue,
                request.payload,
                job_id,
                request.job_id is not None,
                request.run_at_ms(now_ms),
                request.priority,
                request.max_attempts,
                request.dedup_key,
                request.headers,
                request.kv_writes,
            )
        )
    )


def encode_batch(sent_at: int, requests: Sequence[bytes]) -> bytes:
    """The bytes of a batch of encoded requests."""
    head = _packer.pack_array_header(4) + _packer.pack(_MAGIC) + _packer.pack(BATCH_FORMAT)
    return b"".join(
        (head, _packer.pack(sent_at), _packer.pack_array_header(len(requests)), *requests)
    )


def decode_batch(name: str, data: bytes) -> Batch:
    """Read and check a batch.

    Raises:
        MalformedBatch: It cannot be taken.
    """
    if len(data) > MAX_BATCH_BYTES:
        raise MalformedBatch(f"{len(data)} bytes; a batch has at most {MAX_BATCH_BYTES}")
    try:
        found = _array(msgpack.unpackb(data))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedBatch(f"it is not an array in MessagePack: {error}") from error
    if found[:1] != [_MAGIC]:
        raise MalformedBatch("it is not a batch of taquba's")
    if found[1:2] != [BATCH_FORMAT]:
        raise MalformedBatch(
            f"it is in format {found[1:2]}, this owner reads {BATCH_FORMAT}: run an owner of the "
            "producer's version, and put the batch back"
        )
    try:
        _, _, sent_at, rows = found
        return _checked(name, sent_at, rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise MalformedBatch(f"it holds a request that cannot be taken: {error}") from error


def _checked(name: str, sent_at: object, rows: object) -> Batch:
    if not isinstance(sent_at, int):
        raise TypeError(f"{sent_at!r} is no time")
    rows = _array(rows)
    if not 1 <= len(rows) <= MAX_BATCH_JOBS:
        raise ValueError(f"{len(rows)} requests; a batch has 1 to {MAX_BATCH_JOBS}")
    requests: list[EnqueueRequest] = []
    own_ids: set[str] = set()
    drawn_ids: set[str] = set()
    for row in rows:
        request, job_id, is_own = _request(_array(row))
        requests.append(request)
        if is_own:
            own_ids.add(job_id)
        elif job_id in drawn_ids:
            raise ValueError(f"the id {job_id!r} comes twice")
        else:
            drawn_ids.add(job_id)
    if not own_ids.isdisjoint(drawn_ids):
        raise ValueError(f"ids come twice: {own_ids & drawn_ids}")
    return Batch(name, sent_at, requests, frozenset(own_ids))


def _request(row: list[object]) -> tuple[EnqueueRequest, str, bool]:
    if len(row) != _REQUEST_FIELDS:
        raise TypeError(f"it has {len(row)} fields, not {_REQUEST_FIELDS}")
    # What is of another type than it should be is refused by the options object.
    (
        queue,
        payload,
        job_id,
        is_own,
        run_at,
        priority,
        max_attempts,
        dedup_key,
        headers,
        kv_writes,
    ) = row
    if not isinstance(job_id, str):
        raise TypeError("a request has no job id")
    request = EnqueueRequest(
        queue,  # type: ignore[arg-type]
        payload,  # type: ignore[arg-type]
        job_id=job_id,
        run_at=None if run_at is None else from_ms(run_at),  # type: ignore[arg-type]
        priority=priority,  # type: ignore[arg-type]
        max_attempts=max_attempts,  # type: ignore[arg-type]
        dedup_key=dedup_key,  # type: ignore[arg-type]
        headers=headers,  # type: ignore[arg-type]
        kv_writes=kv_writes,  # type: ignore[arg-type]
    )
    return request, job_id, is_own is True


def _array(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of an array")
    return cast("list[object]", value)
