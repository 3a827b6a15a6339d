"""The processes that take part, and what each of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Final, NamedTuple

from taquba._line.joining import MemberInfo
from taquba._model.clock import from_ms
from taquba._model.records import Job, Member, RunningJob
from taquba._queue.owner import Owner

MOST_RUNNING: Final = 1000
"""Jobs that are listed of a process."""

_MOST_IN_TOTAL: Final = 10_000
"""So that the answer takes a few milliseconds, and fits into a message."""


class Present(NamedTuple):
    """A process that takes part, as the owner knows it.

    Attributes:
        about: The process.
        places: How many jobs its worker loops run at a time, by queue.
    """

    about: MemberInfo
    places: Mapping[str, int]


def members(owner: Owner, elsewhere: Iterable[Present]) -> list[Member]:
    """All of them, the owner first, the others by the time at which they began."""
    places = {state.name: state.places for state in owner.queues.values() if state.places}
    others = sorted(
        {present.about.id: present for present in elsewhere}.values(),
        key=lambda present: (present.about.since, present.about.id),
    )
    found = [Present(owner.about._replace(role="owner"), places), *others]
    running: dict[str | None, list[Job]] = {present.about.id: [] for present in found}
    for lease in owner.leases:
        if lease.state != "claiming" and lease.job.worker in running:
            running[lease.job.worker].append(lease.job)
    most = max(1, min(MOST_RUNNING, _MOST_IN_TOTAL // len(found)))
    return [_member(present, running[present.about.id], most) for present in found]


def _member(present: Present, jobs: Iterable[Job], most: int) -> Member:
    about = present.about
    longest = nsmallest(most, jobs, key=lambda job: (job.claimed_at or 0, job.id))
    return Member(
        id=about.id,
        host=about.host,
        pid=about.pid,
        version=about.version,
        role=about.role,
        since=from_ms(about.since),
        places=dict(present.places),
        running=tuple(
            RunningJob(job.id, job.queue, from_ms(job.claimed_at or 0)) for job in longest
        ),
    )
