"""The end of a child: wakes its parent."""

from __future__ import annotations

from taquba import JobRecord, LeaseHandle, SettlementEffects, Store
from taquba.extending.halves import TwoHalves
from taquba_workflow import _headers
from taquba_workflow._children import wake_parent


class EndedChild(TwoHalves[str, None, None]):
    """The handler of jobs that tell a run of the end of its child."""

    def __init__(self, store: Store, queue_name: str) -> None:
        super().__init__()
        self._store = store
        self._queue_name = queue_name

    def read(self, job: JobRecord) -> str:
        """The parent's id."""
        return job.headers[_headers.RUN_ID]

    async def perform(self, work: str, lease: LeaseHandle) -> None:
        """Nothing: no code of the user's has a part in it."""

    def judge(self, work: str, verdict: None, lease: LeaseHandle) -> None:
        """Nothing."""

    async def conclude(self, work: str, decision: None, lease: LeaseHandle) -> SettlementEffects:
        """Start the next turn of the parent, if it waits."""
        await wake_parent(self._store, self._queue_name, work)
        return SettlementEffects()
