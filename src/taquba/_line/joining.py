"""What a process says when it takes part, and what it is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Self, cast

import msgpack

from taquba._line.tokens import MOST_TOKENS, NotTokens
from taquba._model import validate
from taquba._model.errors import TaqubaError
from taquba._model.records import Job
from taquba._model.unpacking import UNREADABLE, Unpacking

_LONGEST: Final = 255
"""Characters of a text."""

_MOST_JOBS: Final = 8 * MOST_TOKENS
"""That a process may name: more than it would hold."""

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class MemberInfo(NamedTuple):
    """A process that takes part.

    Attributes:
        id: Its name, which no other process has.
        host: The name of its machine.
        pid: Its number there.
        version: Its version of taquba.
        role: What it is: ``worker`` or ``producer``.
        since: When it began, in wall ms.
    """

    id: str
    host: str
    pid: int
    version: str
    role: str
    since: int

    def dump(self) -> bytes:
        return bytes(_pack(tuple(self)))

    @classmethod
    def load(cls, data: object) -> Self:
        """Read what `dump` made; raises `NotTokens`."""
        fields = _scalars(data, 16)
        match fields:
            case [str() as id_, str() as host, int() as pid, str() as version, str(), int(), *_]:
                if max(map(len, (id_, host, version))) <= _LONGEST and pid > 0:
                    return cls(*fields[:6])  # type: ignore[arg-type]
            case _:
                pass
        raise NotTokens("that is not a process")


class NamedJob(NamedTuple):
    """A job that a process has from a former owner, as it was claimed.

    Attributes:
        queue: Its queue.
        id: Its id.
        priority: Its priority.
        attempts: The number of the attempt.
        claimed_at: When that began, in wall ms.
    """

    queue: str
    id: str
    priority: int
    attempts: int
    claimed_at: int

    @classmethod
    def of(cls, job: Job) -> NamedJob:
        return cls(job.queue, job.id, job.priority, job.attempts, job.claimed_at or 0)


class Adopted(NamedTuple):
    """A job that goes on.

    Attributes:
        token: The claim's new name.
        cancel_requested: Whether the job is asked to cancel.
    """

    token: int
    cancel_requested: bool


def dump_named(jobs: Iterable[NamedJob]) -> bytes:
    """Jobs that a process has."""
    return bytes(_pack([field for job in jobs for field in job]))


def load_named(data: object) -> list[NamedJob]:
    """Read jobs; raises `NotTokens`."""
    fields = _scalars(data, 5 * _MOST_JOBS)
    found: list[NamedJob] = []
    if len(fields) % 5:
        raise NotTokens("that are not jobs")
    for start in range(0, len(fields), 5):
        match fields[start : start + 5]:
            case [str() as queue, str() as id_, int() as priority, int() as attempts, int() as at]:
                pass
            case _:
                raise NotTokens("that are not jobs")
        try:
            validate.queue_name(queue)
            validate.job_id(id_)
            validate.integer(priority, "priority", 0, 2**32 - 1)
        except TaqubaError as error:
            raise NotTokens(str(error)) from None
        found.append(NamedJob(queue, id_, priority, attempts, at))
    return found


def dump_adopted(adopted: Iterable[Adopted | None]) -> bytes:
    """What becomes of the jobs that were named, in their order."""
    flat: list[object] = []
    for one in adopted:
        flat += (0, False) if one is None else one
    return bytes(_pack(flat))


def load_adopted(data: object, count: int) -> list[Adopted | None]:
    """Read what becomes of `count` jobs."""
    flat = cast("list[int]", msgpack.unpackb(data)) if isinstance(data, bytes) else []
    found = [
        Adopted(token, bool(asked)) if token else None
        for token, asked in zip(flat[::2], flat[1::2], strict=False)
    ]
    return [*found, *[None] * count][:count]


def _scalars(data: object, most: int) -> list[object]:
    """An array of values that are neither arrays nor maps."""
    if not isinstance(data, bytes):
        raise NotTokens("that are not bytes")
    try:
        unpacking = Unpacking(data)
        length = unpacking.array()
        if length > most:
            raise NotTokens(f"{length} values, of at most {most}")
        values = [unpacking.scalar() for _ in range(length)]
        unpacking.end()
    except UNREADABLE as error:
        raise NotTokens(f"{error!s:.200}") from None
    return values
