"""Keys: ``[space tag][format version][fields]``, fields in an order-preserving binary form.

Unsigned integers are big-endian, queue names are length-prefixed, ids come last, so the byte
order of the keys of a space is the order in which the queue wants to read them.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

FORMAT_VERSION: Final = 1
"""Layout of keys and values. A store stamped with another one is refused."""

Op = tuple[bytes, bytes | None]
"""A row to put, or to delete where the value is None."""

_VERSION: Final = bytes([FORMAT_VERSION])
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")

PENDING: Final = b"\x01" + _VERSION
SCHEDULED: Final = b"\x02" + _VERSION
CLAIMED: Final = b"\x03" + _VERSION
DONE: Final = b"\x04" + _VERSION
DEAD: Final = b"\x05" + _VERSION
INDEX: Final = b"\x06" + _VERSION
DEDUP: Final = b"\x07" + _VERSION
HISTORY: Final = b"\x08" + _VERSION
STATS: Final = b"\x09" + _VERSION
CURSOR: Final = b"\x0a" + _VERSION
USER: Final = b"\x0b" + _VERSION
HEARTBEAT: Final = b"\x0d" + _VERSION
CLOSED: Final = b"\x0e" + _VERSION
"""The time, in ms, of the clean close; like the cursors, gone while an owner serves."""
MARK: Final = b"\x0f" + _VERSION
"""Batches, and ids chosen by callers, that were taken from the inbox and may come again."""
MARK_TIME: Final = b"\x10" + _VERSION
"""The marks again, by the time at which each was made."""
OWNER: Final = b"\x11" + _VERSION
"""The mark of the owner that opened the store last, a new one at each opening."""
MEMBER: Final = b"\x12" + _VERSION
"""The processes that take part, and may hold claims, by their ids."""
META: Final = b"\x0c"
"""The meta key has no version: it holds the version of everything else."""

_pack_u32 = _U32.pack
_pack_u64 = _U64.pack


@lru_cache(maxsize=4096)
def queue_prefix(space: bytes, queue: str) -> bytes:
    """Prefix of all keys of `queue` in a space whose first field is the queue."""
    name = queue.encode()
    return space + bytes([len(name)]) + name


@lru_cache(maxsize=4096)
def _length_prefixed(queue: str) -> bytes:
    return queue_prefix(b"", queue)


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the smallest key above every key that starts with `prefix`.

    None if there is no
    such key, that is when `prefix` is empty or all 0xff.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


@lru_cache(maxsize=4096)
def _pending_prefix(queue: str, priority: int) -> bytes:
    return queue_prefix(PENDING, queue) + _pack_u32(priority)


def pending(queue: str, priority: int, job_id: str) -> bytes:
    return _pending_prefix(queue, priority) + job_id.encode()


def scheduled(run_at: int, queue: str, job_id: str) -> bytes:
    return SCHEDULED + _pack_u64(run_at) + _length_prefixed(queue) + job_id.encode()


def scheduled_run_at(key: bytes) -> int:
    """The time, in ms, that a key of the scheduled space waits for."""
    (run_at,) = _U64.unpack_from(key, len(SCHEDULED))
    return int(run_at)


def claimed(queue: str, job_id: str) -> bytes:
    return queue_prefix(CLAIMED, queue) + job_id.encode()


def finished(space: bytes, queue: str, at: int, job_id: str) -> bytes:
    """Key of a done or dead job, by the time in ms at which it ended."""
    return queue_prefix(space, queue) + _pack_u64(at) + job_id.encode()


def index(job_id: str) -> bytes:
    return INDEX + job_id.encode()


def dedup(queue: str, key: str) -> bytes:
    return queue_prefix(DEDUP, queue) + key.encode()


def history(job_id: str, sequence: int) -> bytes:
    return history_prefix(job_id) + _pack_u32(sequence)


def history_prefix(job_id: str) -> bytes:
    name = job_id.encode()
    return HISTORY + bytes([len(name)]) + name


def stats(queue: str) -> bytes:
    return STATS + queue.encode()


def stats_queue(key: bytes) -> str:
    return key[len(STATS) :].decode()


def cursor(queue: str) -> bytes:
    return CURSOR + queue.encode()


def cursor_queue(key: bytes) -> str:
    return key[len(CURSOR) :].decode()


def batch_mark(name: str) -> bytes:
    """Key of the mark of a batch."""
    return MARK + b"b" + name.encode()


def job_mark(job_id: str) -> bytes:
    """Key of the mark of a job whose id a caller chose."""
    return MARK + b"j" + job_id.encode()


def mark_time(at: int, mark: bytes) -> bytes:
    """Key by which a mark, made at a time in ms, is found when it has become old."""
    return MARK_TIME + _pack_u64(at) + mark[len(MARK) :]


def marked_at(key: bytes) -> tuple[int, bytes]:
    """The time in a key of `mark_time`, and the key of the mark."""
    (at,) = _U64.unpack_from(key, len(MARK_TIME))
    return int(at), MARK + key[len(MARK_TIME) + _U64.size :]


def user(key: bytes) -> bytes:
    return USER + key


def owner_of(key: bytes) -> tuple[str, str]:
    """The (queue, job id) named by a key of the pending, scheduled, claimed, done or dead space."""
    space = key[:2]
    start = 2 + _U64.size if space == SCHEDULED else 2
    name_end = start + 1 + key[start]
    id_start = name_end
    if space == PENDING:
        id_start += _U32.size
    elif space in (DONE, DEAD):
        id_start += _U64.size
    return key[start + 1 : name_end].decode(), key[id_start:].decode()


def member(member_id: str) -> bytes:
    return MEMBER + member_id.encode()
