"""What can go wrong with typed jobs, beside the errors of taquba itself."""

from __future__ import annotations

from taquba import TaqubaError
from taquba.extending import WordEnum


class FailureKind(WordEnum):
    """Why a job failed for good."""

    ERROR = "error"
    """Its function raised, in the last attempt or permanently."""
    TIMED_OUT = "timed_out"
    """Its last attempt ran longer than its timeout."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    INVALID = "invalid"
    """Its stored arguments or its result do not fit the function's annotations."""
    LOST = "lost"
    """Its function never ended: its workers died or lost the job until the attempts were used up,
    or its payload is gone."""


class JobFailed(TaqubaError):
    """A job has failed for good: no attempt is left, or none can help.

    Attributes:
        job_id: The job.
        kind: Why.
        message: The error, as text for people.
    """

    def __init__(self, job_id: str, kind: FailureKind, message: str) -> None:
        super().__init__(job_id, kind, message)
        self.job_id = job_id
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"job {self.job_id!r} failed ({self.kind}): {self.message}"


class InputMismatch(TaqubaError):
    """An idempotency key was used before, with other arguments; nothing was written.

    Attributes:
        job: Name of the job.
        key: The idempotency key.
        job_id: The job that holds the key.
    """

    def __init__(self, job: str, key: str, job_id: str) -> None:
        super().__init__(job, key, job_id)
        self.job = job
        self.key = key
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job!r} was submitted before under the key {self.key!r} with other "
            f"arguments, as {self.job_id!r}; submit these under another key"
        )


class DetachedContext(TaqubaError, RuntimeError):
    """A function in an executor, or a unit test, used what only the process of its runner has."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"ctx.{self.what} is not available outside the process of the job's runner; "
            "pass what the function needs as arguments"
        )
