"""Parking: a job that this program cannot run waits, unspent, for a program that can."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from taquba._interface.store import Store
from taquba._model.records import JobRecord, JobStatus
from taquba._worker.outcomes import Snooze
from taquba.extending.walks import pages

__all__ = ["parked", "parked_jobs", "too_new"]

_PARKED: Final = "parked: "
"""How the error of a parked job begins."""

_SECONDS: Final = 30.0
"""How long a job is parked before it is looked at again."""


def parked(why: object) -> Snooze:
    """What a handler raises to park its job.

    Args:
        why: What a person reads in `taquba.JobRecord.last_error`.
    """
    return Snooze(_SECONDS, f"{_PARKED}{why}")


def too_new(version: int, what: str, known: int) -> Snooze:
    """What a handler raises for a job of a version that only a newer program knows.

    Args:
        version: The job's.
        what: What the job runs, such as ``job 'email.send'``.
        known: The version of that in this program.
    """
    return parked(f"it is of version {version}, and {what} of version {known} here")


async def parked_jobs(store: Store, name: str) -> AsyncGenerator[JobRecord]:
    """The parked jobs of a queue, without their payloads."""
    async for page in pages(
        lambda cursor: store.list_jobs(name, JobStatus.scheduled, cursor, payloads=False)
    ):
        for job in page.jobs:
            if job.last_error is not None and job.last_error.startswith(_PARKED):
                yield job
