"""Works on the items of a batch in this process, until the last attempt has ended."""

from __future__ import annotations

import asyncio

import anyio

from taquba import Store
from taquba.extending import HeldLocks, locks_of
from taquba_bulk._runner import Ended, Gate
from taquba_bulk._shared import Shared
from taquba_bulk._stopping import Suspended
from taquba_workflow import Step, WorkflowRuntime


class Switch:
    """Lets items run as the one says that works on the batch in this process."""

    def __init__(self) -> None:
        self.gate: Gate | None = None

    @property
    def run_name(self) -> str:
        """The run of the batch; empty without one."""
        return "" if self.gate is None else self.gate.run_name

    async def admits(self, step: Step) -> bool:
        """Whether an item may run."""
        if self.gate is None:
            raise Suspended
        return await self.gate.admits(step)

    def settled(self, run_id: str, ended: Ended | None) -> None:
        """An attempt is over."""
        if self.gate is not None:
            self.gate.settled(run_id, ended)


async def work_lock(store: Store, queue_name: str) -> HeldLocks:
    """Wait until nobody else works on a batch with this handle."""
    return await locks_of(store).acquire([("taquba_bulk", "work", queue_name)])


class Working:
    """Worker loops for the items of a batch.

    Args:
        runtime: Runs the items.
        shared: The state that they share.
    """

    def __init__(self, runtime: WorkflowRuntime, shared: Shared) -> None:
        self._shared = shared
        self._drain = asyncio.Event()
        self.task = asyncio.create_task(runtime.run(self._drain), name="taquba-bulk-runtime")

    async def end(self) -> None:
        """Begin no further item, and wait until all attempts have ended, or were suspended.

        If it is cancelled, so are the attempts.
        """
        self._shared.halt()
        self._drain.set()
        parked = asyncio.create_task(self._shared.attempts.all_parked())
        try:
            await asyncio.wait((self.task, parked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also if this is cancelled: the caller wants to leave now.
            parked.cancel()
            self.task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((self.task, parked))
