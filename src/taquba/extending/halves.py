"""A handler in two halves: around the user's function, and what is decided at the settlement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from taquba._model.options import SettlementEffects
from taquba._model.records import JobRecord
from taquba._worker.lease_handle import LeaseHandle

__all__ = ["TwoHalves"]

W = TypeVar("W")
V = TypeVar("V")
D = TypeVar("D")


class TwoHalves(ABC, Generic[W, V, D]):
    """A handler in two halves, with a verdict between them.

    `perform` is everything around the user's function. It takes what it knows from the job, and
    decides on nothing that others may decide on at the same time. The other half does: `judge` says
    what the verdict means, and `conclude` what the settlement of the job writes. What `conclude`
    reads for that it expects to be so at the settlement, see `SettlementEffects.kv_expected`; where
    it is not, `judge` and `conclude` are called again, and the function is not. `process` does both
    halves; it is what a worker loop calls, in whichever process.
    """

    async def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        """Handle a job."""
        work = self.read(job)
        await self.begin(work)
        verdict = await self.perform(work, lease)

        async def decide() -> SettlementEffects:
            return await self.conclude(work, self.judge(work, verdict, lease), lease)

        lease.decides_again(decide)
        return await decide()

    @abstractmethod
    def read(self, job: JobRecord) -> W:
        """What a job carries. Raises for one that carries nothing of the kind."""

    async def begin(self, work: W) -> None:
        """What is made sure of before `perform`. Raises to settle the job without it."""
        del work

    @abstractmethod
    async def perform(self, work: W, lease: LeaseHandle) -> V:
        """Run the user's function; what it comes to, which may be its error.

        What is raised is none of the function's: the job is settled by it.
        """

    @abstractmethod
    def judge(self, work: W, verdict: V, lease: LeaseHandle) -> D:
        """What the verdict means: where the function has failed, how its job goes on.

        Raise the function's error to have the job settled by it, as a worker loop does.
        """

    @abstractmethod
    async def conclude(self, work: W, decision: D, lease: LeaseHandle) -> SettlementEffects:
        """What lands with the acknowledgement; raise to have the job settled otherwise."""
