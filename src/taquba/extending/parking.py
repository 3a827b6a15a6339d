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

_SECONDS: Final = 30.0
"""How long a job is parked before it is tried again."""


def parked(why: object) -> Snooze:
    """Return the exception by which a handler parks its job.

    Args:
        why: The reason, for `taquba.JobRecord.last_error`.
    """
    return Snooze(_SECONDS, f"{_PARKED}{why}")


def too_new(version: int, what: str, known: int) -> Snooze:
    """Return the exception for a job whose version only a newer program knows.

    Args:
        version: The job's.
        what: The thing that the job runs, such as ``job 'email.send'``.
        known: Its version in this program.
    """
    return parked(f"it has version {version}, but {what} has version {known} here")


async def parked_jobs(store: Store, name: str) -> AsyncGenerator[JobRecord]:
    """Return the parked jobs of a queue, without their payloads."""
    async for page in pages(
        lambda cursor: store.list_jobs(name, JobStatus.SCHEDULED, cursor, payloads=False)
    ):
        for job in page.jobs:
            if job.last_error is not None and job.last_error.startswith(_PARKED):
                yield job
