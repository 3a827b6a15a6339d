"""Works on items of the batches that other processes run."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import anyio

from taquba import QueueClosed, Store, StoreError, TaqubaError
from taquba.extending import RunsInBackground, describe
from taquba_bulk._holds import Stamp, handle_id, held_by_another
from taquba_bulk._records import keys_of
from taquba_bulk._runner import Ended
from taquba_bulk._running import RUN_HEADER, Helpers, Running, Stage
from taquba_bulk._shared import Shared
from taquba_bulk._stopping import Suspended
from taquba_bulk._working import Switch, Working, work_lock
from taquba_workflow import Step, WorkflowRuntime

_LOOK_SECONDS: Final = 0.25
"""How often a process looks for a batch to help with, in real time."""

_RETRY_SECONDS: Final = 1.0

_log: Final = logging.getLogger(__name__)


class BulkHelper(RunsInBackground):
    """Helps with a batch whenever another process runs it.

    Args:
        store: An open handle on the store.
        queue_name: The batch.
        runtime: Runs the items.
        shared: The state that they share.
        switch: Is set to this while it helps.
        places: How many items run here at the same time.
    """

    def __init__(
        self,
        store: Store,
        queue_name: str,
        runtime: WorkflowRuntime,
        shared: Shared,
        switch: Switch,
        places: int,
    ) -> None:
        self._store = store
        self._name = queue_name
        self._keys = keys_of(queue_name)
        self._runtime = runtime
        self._shared = shared
        self._switch = switch
        self._helpers = Helpers(store, queue_name)
        self._places = places
        self._run = ""
        self._joining = asyncio.Lock()
        self._has_suspended = False
        """Whether an item was suspended: it waits for the end of this help."""
        self._row: bytes | None = None
        """The entry of the run, as it was read last."""

    @property
    def run_name(self) -> str:
        """The run that it helps with."""
        return self._run

    def _is_heard_of(self, failure: BaseException) -> bool:
        # Of a store that failed every call tells; of help that ended nobody does.
        return isinstance(failure, StoreError | QueueClosed)

    async def run(self, shutdown: asyncio.Event | None = None) -> None:
        """Help until `shutdown` is set, then let running items end."""
        shutdown = shutdown or asyncio.Event()
        while not shutdown.is_set():
            pause = _LOOK_SECONDS
            try:
                running = await self._to_help_with()
                if running is not None:
                    await self._help(running, shutdown)
                    continue
            except TaqubaError as error:
                if error.permanent:
                    raise
                _log.warning(
                    "batch %r: looks again whether to help: %s", self._name, describe(error)
                )
                pause = _RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await shutdown.wait()
            except TimeoutError:
                pass

    # -- items ------------------------------------------------------------------------------

    async def admits(self, step: Step) -> bool:
        """Whether the run has read the input of an item, of all the processes that might."""
        running = Running.decode(await self._store.kv_get(self._keys.run))
        if running is None or running.stage is Stage.STOPS or self._shared.stopping:
            self._has_suspended = True
        if running is None or self._has_suspended:
            raise Suspended
        await self._join(running)
        if step.headers.get(RUN_HEADER) == self._run:
            return True
        read_in = await self._store.kv_get(self._keys.readmitted(step.run_id))
        return read_in == self._run.encode()

    def settled(self, run_id: str, ended: Ended | None) -> None:
        """The process that runs the batch looks for itself."""

    # -- help -------------------------------------------------------------------------------

    async def _to_help_with(self) -> Running | None:
        row = await self._store.kv_get(self._keys.run)
        if row == self._row:
            # It was left because nobody runs it any longer.
            return None
        self._row = row
        running = Running.decode(row)
        if running is None or running.stage is Stage.STOPS or self._runs_it(row):
            return None
        return running

    def _runs_it(self, row: bytes | None) -> bool:
        """Whether it is this process that runs the batch."""
        stamp = None if row is None else Stamp.decode(row)
        return stamp is not None and stamp.holder == handle_id(self._store)

    async def _help(self, running: Running, shutdown: asyncio.Event) -> None:
        with await work_lock(self._store, self._name):
            self._run, self._has_suspended = "", False
            await self._join(running)
            self._switch.gate = self
            working = Working(self._runtime, self._shared)
            watching = asyncio.create_task(self._watch(), name="taquba-bulk-watch")
            stopping = asyncio.create_task(shutdown.wait())
            try:
                await asyncio.wait(
                    (working.task, watching, stopping), return_when=asyncio.FIRST_COMPLETED
                )
                if not watching.done() or watching.result():
                    await working.end()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._leave(working, watching, stopping)
            if not working.task.cancelled():
                working.task.result()

    async def _join(self, running: Running) -> None:
        """Help with a run, perhaps after another of the same batch."""
        if running.run == self._run:
            return
        async with self._joining:
            if running.run != self._run:
                await self._shared.begin(running.run, _leave_it_to_the_account, running.limits)
                self._run = running.run
                await self._helpers.join(running.run, self._places)

    async def _leave(self, working: Working, *others: asyncio.Task[object]) -> None:
        """Give back what still runs, and forget the run."""
        tasks = (working.task, *others)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._switch.gate = None
        with suppress(TaqubaError):
            await self._helpers.leave()

    async def _watch(self) -> bool:
        """Return when there is nothing to help with: True if items that run may end."""
        while True:
            if self._row is None:
                return False
            if not await self._changes(self._row):
                return True
            self._row = await self._store.kv_get(self._keys.run)
            running = Running.decode(self._row)
            if running is None:
                # It has ended. If it was cancelled, so are its items; otherwise there are none.
                return False
            if running.stage is Stage.STOPS or self._runs_it(self._row):
                return True
            if self._has_suspended:
                # What was suspended would wait for ever.
                return True
            # Perhaps another process goes on with the batch.
            await self._join(running)

    async def _changes(self, row: bytes) -> bool:
        """Wait until the entry changes, or whoever runs the batch counts as dead."""
        while True:
            try:
                return await held_by_another(self._store, self._keys.run, row)
            except TaqubaError as error:
                if error.permanent:
                    raise
                _log.warning("batch %r: cannot be looked at: %s", self._name, describe(error))
                await asyncio.sleep(_RETRY_SECONDS)


def _leave_it_to_the_account(metric: str) -> None:
    """A call cannot be paid: whoever runs the batch finds that in the account."""
