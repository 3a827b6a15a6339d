"""Batches: requests on their way from a producer to the owner, and the bytes that carry them.

A batch is applied whole or not at all. Its name is a ULID that its producer draws once and keeps
when it sends the batch again, so that the owner recognises a repetition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeVar, cast

import msgpack
from ulid import ULID

from taquba._model import validate
from taquba._model.clock import from_ms
from taquba._model.errors import InvalidArgument
from taquba._model.options import EnqueueRequest
from taquba._model.unpacking import UNREADABLE, Unpacking

T = TypeVar("T")

BATCH_FORMAT: Final = 1
"""Version of the format. An owner refuses a batch in a version that it does not know."""

MAX_BATCH_JOBS: Final = 10_000
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""An owner refuses larger ones: it holds some of them in memory at a time."""

MAX_BATCH_ENTRIES: Final = 300_000
"""Headers and key-value writes in a batch: each takes much more memory than its bytes."""

MAX_REASON: Final = 1000
"""Most characters of the reason why a batch is malformed."""

_MAGIC: Final = "taquba batch"
_BATCH_FIELDS: Final = 4
_REQUEST_FIELDS: Final = 10
_packer: Final = msgpack.Packer(use_bin_type=True, autoreset=True)


class MalformedBatch(Exception):
    """The bytes are not a batch that this version can take; the message says why."""


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

    def ids(self) -> set[str]:
        """The ids of all its requests."""
        return {request.job_id for request in self.requests if request.job_id is not None}


def encode_request(request: EnqueueRequest, job_id: str, now_ms: int) -> bytes:
    """A request as a part of a batch.

    Args:
        request: The request.
        job_id: The id of its job.
        now_ms: The time from which a delay counts, in ms since the epoch.
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
    head = (_packer.pack(value) for value in (_MAGIC, BATCH_FORMAT, sent_at))
    count = _packer.pack_array_header(len(requests))
    return b"".join((_packer.pack_array_header(_BATCH_FIELDS), *head, count, *requests))


def decode_batch(name: str, data: bytes) -> Batch:
    """Read and check a batch.

    Raises:
        MalformedBatch: It cannot be taken.
    """
    if len(data) > MAX_BATCH_BYTES:
        raise MalformedBatch(f"{len(data)} bytes; a batch has at most {MAX_BATCH_BYTES}")
    if not is_batch_name(name):
        raise MalformedBatch("its name is not that of a producer's batch")
    try:
        return _read(name, Unpacking(data))
    except UNREADABLE as error:
        raise MalformedBatch(
            "it is not an array in MessagePack, or holds a request that cannot be taken: "
            + shortened(error)
        ) from error


def is_batch_name(name: str) -> bool:
    """Whether this could be the name of a batch: a ULID in canonical form."""
    try:
        return str(ULID.from_str(name)) == name
    except ValueError:
        return False


def shortened(error: object) -> str:
    """The text of an error, shortened to the maximum length of a reason."""
    text = str(error)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


def check_entries(requests: Sequence[EnqueueRequest]) -> None:
    """Refuse requests that would make a batch that no owner accepts.

    Raises:
        InvalidArgument: They have too many headers and key-value writes.
    """
    entries = sum(len(r.headers or ()) + len(r.kv_writes or ()) for r in requests)
    if entries > MAX_BATCH_ENTRIES:
        raise InvalidArgument(
            f"a batch has at most {MAX_BATCH_ENTRIES} headers and key-value writes; "
            f"got {entries}: send several"
        )


def _read(name: str, unpacking: Unpacking) -> Batch:
    fields = unpacking.array()
    if unpacking.scalar() != _MAGIC:
        raise MalformedBatch("it is not a batch of taquba")
    batch_format = unpacking.scalar()
    if batch_format != BATCH_FORMAT:
        raise MalformedBatch(
            f"it is in format {batch_format!r:.20}, this owner reads {BATCH_FORMAT}: run an owner "
            "of the producer's version, and put the batch back"
        )
    if fields != _BATCH_FIELDS:
        raise ValueError(f"it has {fields} fields, not {_BATCH_FIELDS}")
    sent_at = _moment(unpacking.scalar())
    count = unpacking.array()
    if not 1 <= count <= MAX_BATCH_JOBS:
        raise ValueError(f"{count} requests; a batch has 1 to {MAX_BATCH_JOBS}")
    requests: list[EnqueueRequest] = []
    own_ids: set[str] = set()
    drawn_ids: set[str] = set()
    entries = MAX_BATCH_ENTRIES
    for _ in range(count):
        request, job_id, is_own = _request(unpacking, entries)
        requests.append(request)
        entries -= len(request.headers or ()) + len(request.kv_writes or ())
        if is_own:
            own_ids.add(job_id)
        elif job_id in drawn_ids:
            raise ValueError(f"the id {job_id!r} comes twice")
        else:
            drawn_ids.add(job_id)
    unpacking.end()
    if not own_ids.isdisjoint(drawn_ids):
        raise ValueError(f"the id {min(own_ids & drawn_ids)!r} comes twice")
    return Batch(name, sent_at, requests, frozenset(own_ids))


def _request(unpacking: Unpacking, entries: int) -> tuple[EnqueueRequest, str, bool]:
    fields = unpacking.array()
    if fields != _REQUEST_FIELDS:
        raise TypeError(f"a request has {fields} fields, not {_REQUEST_FIELDS}")
    scalar = unpacking.scalar
    queue = _typed(scalar(), str, "a queue name")
    payload = scalar()
    job_id = scalar()
    if type(job_id) is not str:
        raise TypeError("a request has no job id")
    is_own = scalar() is True
    run_at = scalar()
    priority, max_attempts = scalar(), scalar()
    dedup_key = scalar()
    headers = unpacking.mapping(min(entries, validate.MAX_HEADERS))
    for text in (*(headers or {}), *(headers or {}).values()):
        _typed(text, str, "a name or value in headers")
    kv_writes = unpacking.mapping(entries - len(headers or ()))
    # The options object checks the rest.
    request = EnqueueRequest(
        queue,
        cast("bytes", payload),
        job_id=job_id,
        run_at=None if run_at is None else from_ms(_moment(run_at)),
        priority=None if priority is None else _typed(priority, int, "a priority"),
        max_attempts=None if max_attempts is None else _typed(max_attempts, int, "max_attempts"),
        dedup_key=None if dedup_key is None else _typed(dedup_key, str, "a dedup key"),
        headers=cast("Mapping[str, str] | None", headers),
        kv_writes=cast("Mapping[validate.KvKey, bytes] | None", kv_writes),
    )
    return request, job_id, is_own


def _moment(value: object) -> int:
    # Not isinstance: a bool is not a number here.
    if type(value) is not int or not 0 <= value <= validate.LAST_MOMENT_MS:
        raise ValueError(f"{value!r:.100} is not a time in ms since 1970")
    return value


def _typed(value: object, expected: type[T], name: str) -> T:
    # Not isinstance: a bool is not a number here.
    if type(value) is not expected:
        raise TypeError(f"{name} is of type {type(value).__name__}, not {expected.__name__}")
    return value
