"""A claim, as its holder sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from taquba._memory.leases import CancelToken, Lease
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


class HeldClaim(Claim):
    """A claim, and what this process knows of the hold behind it."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.job)
        self._lease = lease

    @property
    def cancel_token(self) -> CancelToken:
        return self._lease.token


def lease_of(claim: HeldClaim) -> Lease:
    """The lease behind a claim, whatever its state."""
    return claim._lease  # pyright: ignore[reportPrivateUsage] - opaque to everybody else


def is_held(claim: HeldClaim) -> bool:
    return lease_of(claim).state == "held"


def give_payload(claim: HeldClaim, payload: bytes) -> None:
    """Put the payload that was read into a claim; the record of its lease stays without it."""
    claim._job = claim._job._replace(payload=payload)  # pyright: ignore[reportPrivateUsage] - opaque to everybody else
