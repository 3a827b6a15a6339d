"""The end of a child: wakes its parent."""

from __future__ import annotations

from typing import NamedTuple

from taquba import JobRecord, LeaseHandle, SettlementEffects, Store
from taquba.extending.halves import TwoHalves
from taquba_workflow import _headers
from taquba_workflow._children import tell_parent


class Told(NamedTuple):
    """What a job tells."""

    parent: str
    """The run whose child has ended."""
    job_id: str


class EndedChild(TwoHalves[Told, None, None]):
    """The handler of jobs that tell a run of the end of its child."""

    def __init__(self, store: Store, queue_name: str) -> None:
        super().__init__()
        self._store = store
        self._queue_name = queue_name

    def read(self, job: JobRecord) -> Told:
        """Whom it tells."""
        return Told(job.headers[_headers.RUN_ID], job.id)

    async def perform(self, work: Told, lease: LeaseHandle) -> None:
        """Nothing: no code of the user's has a part in it."""

    def judge(self, work: Told, verdict: None, lease: LeaseHandle) -> None:
        """Nothing."""

    async def conclude(self, work: Told, decision: None, lease: LeaseHandle) -> SettlementEffects:
        """Start the next turn of the parent if it waits; otherwise leave a mark."""
        return await tell_parent(self._store, self._queue_name, work.parent, work.job_id)
