"""A claim, as its holder sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from taquba._memory.leases import CancelToken
from taquba._model.records import JobRecord, JobStatus, JobView


class Claim(JobView, ABC):
    """A job that the caller holds under a lease. Only a claim can be settled."""

    __slots__ = ()

    @property
    def job(self) -> JobRecord:
        """The job as it was claimed."""
        return JobRecord(self._job, JobStatus.CLAIMED)

    @property
    @abstractmethod
    def cancel_token(self) -> CancelToken:
        """Fires when the job is asked to cancel; already fired if it was asked before."""

    def __repr__(self) -> str:
        return (
            f"Claim(id={self.id!r}, queue={self.queue!r}, "
            f"attempts={self.attempts}/{self.max_attempts})"
        )
