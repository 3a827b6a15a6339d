"""A handler in two halves: around the user's function, and what is decided at the settlement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from taquba._memory.locks import KeyLocks
from taquba._model.options import SettlementEffects
from taquba._model.records import JobRecord
from taquba._worker.lease_handle import LeaseHandle

__all__ = ["Holds", "TwoHalves"]

W = TypeVar("W")
V = TypeVar("V")
D = TypeVar("D")


class Holds:
    """Locks that are held until what was decided under them is applied, or refused.

    Args:
        locks: Where they are taken.
    """

    def __init__(self, locks: KeyLocks) -> None:
        self._locks = locks
        self._held: set[Callable[[], None]] = set()
        """What gives them back."""

    async def take(self, names: Collection[Hashable], lease: LeaseHandle) -> None:
        """Take locks for a job that is about to be settled."""
        held = await self._locks.acquire(names)

        def let_go() -> None:
            self._held.discard(let_go)
            held.release()

        self._held.add(let_go)
        lease.on_end(let_go)

    def let_go(self) -> None:
        """Give back all; for when nothing is settled any more, as in a store that has failed."""
        for release in list(self._held):
            release()


class TwoHalves(ABC, Generic[W, V, D]):
    """A handler in two halves, with a verdict between them.

    `perform` is everything around the user's function. It takes what it knows from the job, and
    decides on nothing that others may decide on at the same time. The other half does, where the
    store is owned: `judge` says what the verdict means, and `conclude`, under `locks`, what the
    settlement of the job writes. `process` does both halves; it is what a worker loop calls.

    Args:
        holds: Where `locks` are held; None for a handler that needs none.
    """

    def __init__(self, holds: Holds | None = None) -> None:
        self._holds = holds

    async def process(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        """Handle a job."""
        work = self.read(job)
        await self.begin(work)
        decision = self.judge(work, await self.perform(work, lease), lease)
        names = self.locks(work, decision)
        if names and self._holds is not None:
            await self._holds.take(names, lease)
        return await self.conclude(work, decision, lease)

    @abstractmethod
    def read(self, job: JobRecord) -> W:
        """What a job carries. Raises for one that carries nothing of the kind."""

    async def begin(self, work: W) -> None:
        """What the owner makes sure of before `perform`. Raises to settle the job without it."""
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

    def locks(self, work: W, decision: D) -> Collection[Hashable]:
        """What nobody else may decide on until the settlement has landed."""
        del work, decision
        return ()

    @abstractmethod
    async def conclude(self, work: W, decision: D, lease: LeaseHandle) -> SettlementEffects:
        """What lands with the acknowledgement; raise to have the job settled otherwise."""
