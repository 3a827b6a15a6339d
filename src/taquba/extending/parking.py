"""Parking: a job that this program cannot run waits for a program that can, unspent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from taquba._interface.store import Store
from taquba._model.records import JobRecord, JobStatus
from taquba._worker.outcomes import Snooze
from taquba.extending.walks import pages

__all__ = ["parked", "parked_jobs", "too_new"]

_PARKED: Final = "parked: "
"""The beginning of the error of a parked job."""

_LEAST_MS: Final = 1_000
_MOST_MS: Final = 30_000
_SHARE: Final = 4


def parked(why: object, age_ms: int = _MOST_MS * _SHARE) -> Snooze:
    """Return the exception by which a handler parks its job.

    The job is tried again after a quarter of its age, between one second and 30: while a new
    release replaces another one, the next process that gets it may know it.

    Args:
        why: The reason, for `taquba.JobRecord.last_error`.
        age_ms: For how long the job has been there, in ms.
    """
    delay_ms = min(max(age_ms // _SHARE, _LEAST_MS), _MOST_MS)
    return Snooze(delay_ms / 1000, f"{_PARKED}{why}")


def too_new(version: int, what: str, known: int, age_ms: int = _MOST_MS * _SHARE) -> Snooze:
    """Return the exception for a job whose version only a newer program knows.

    Args:
        version: The job's.
        what: The thing that the job runs, such as ``job 'email.send'``.
        known: Its version in this program.
        age_ms: For how long the job has been there, in ms.
    """
    return parked(f"it has version {version}, but {what} has version {known} here", age_ms)


async def parked_jobs(store: Store, name: str) -> AsyncGenerator[JobRecord]:
    """Return the parked jobs of a queue, without their payloads."""
    async for page in pages(
        lambda cursor: store.list_jobs(name, JobStatus.SCHEDULED, cursor, payloads=False)
    ):
        for job in page.jobs:
            if job.last_error is not None and job.last_error.startswith(_PARKED):
                yield job
