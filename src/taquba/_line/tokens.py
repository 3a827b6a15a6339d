"""Claims and jobs on their way between the owner and the process that works on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple, cast

import msgpack

from taquba._model.codec import decode_job, encode_job
from taquba._model.errors import UnreadableJob
from taquba._model.records import Job
from taquba._model.unpacking import UNREADABLE

MOST_TOKENS: Final = 10_000
"""In one message, which takes a few milliseconds."""

_SIZE: Final = 8
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class NotTokens(Exception):
    """Bytes that hold no tokens, or too many."""


def dump_tokens(tokens: Sequence[int]) -> bytes:
    """Tokens, which are numbers below 2**64."""
    return Struct(f">{len(tokens)}Q").pack(*tokens)


def load_tokens(data: object) -> tuple[int, ...]:
    """Read tokens.

    Raises:
        NotTokens: There are none in it, or more than `MOST_TOKENS`.
    """
    if not isinstance(data, bytes) or len(data) % _SIZE or len(data) > _SIZE * MOST_TOKENS:
        raise NotTokens
    return Struct(f">{len(data) // _SIZE}Q").unpack(data)


class SentJob(NamedTuple):
    """A job that was claimed for another process."""

    token: int
    job: Job


def dump_jobs(jobs: Iterable[SentJob]) -> bytes:
    """Claimed jobs of a queue."""
    return bytes(_pack([(token, job.id, encode_job(job)) for token, job in jobs]))


def load_jobs(queue: str, data: bytes) -> list[SentJob]:
    """Read jobs of a queue.

    Raises:
        NotTokens: Their form is not known.
    """
    try:
        rows = cast("list[tuple[int, str, bytes]]", msgpack.unpackb(data))
        return [SentJob(token, decode_job(queue, job_id, row)) for token, job_id, row in rows]
    except (*UNREADABLE, UnreadableJob) as error:
        raise NotTokens from error
