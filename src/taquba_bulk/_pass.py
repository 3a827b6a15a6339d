"""One pass over the inputs of a batch: submits items, and writes those that have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from taquba import Store, TaqubaError
from taquba.extending import Shutdown, together, was_cancelled
from taquba_bulk._costs import Costs
from taquba_bulk._errors import BudgetExceeded, FailureThresholdExceeded
from taquba_bulk._inputs import Inputs, Item, Keying, chunks, expected
from taquba_bulk._output import LARGEST_GROUP, Output
from taquba_bulk._pipeline import TypedPipeline
from taquba_bulk._records import BulkRecord, ItemRow, ItemStatus, hash_of, keys_of
from taquba_bulk._report import BulkReport, Tally
from taquba_bulk._runner import UNBOUNDED, Ended
from taquba_bulk._running import RUN_HEADER, Helpers, Tenure
from taquba_bulk._shared import Shared
from taquba_bulk._sinks import Sink
from taquba_bulk._working import Switch, Working, work_lock
from taquba_workflow import InputMismatch, RunSpec, RunState, Step, WorkflowRuntime

In = TypeVar("In")
Out = TypeVar("Out")

_CHUNK: Final = 200
"""Inputs that are read, looked up and submitted together, so that they share commits."""

_PATIENCE_SECONDS: Final = 1.0
"""How long, in real time, an item that was left by an earlier pass waits for its input."""

_LOOK_SECONDS: Final = 0.5
"""How often a run looks for other processes that help, in real time."""

_TICK_SECONDS: Final = 0.02
"""How often it looks for items that may have been begun by those who help."""

_MOST_WAITS: Final = 200
"""Ends that are waited for at the same time, of the oldest items: each is a call under way, and the
line to the owner has to carry others. What ends out of order is seen at the next look."""

_LONG_SECONDS: Final = 3600

_WORKED_ON: Final = (RunState.RUNNING, RunState.CANCELLING)

_log: Final = logging.getLogger(__name__)

_STATUS_OF: Final = {
    RunState.SUCCEEDED: ItemStatus.SUCCEEDED,
    RunState.FAILED: ItemStatus.FAILED,
    RunState.CANCELLED: ItemStatus.CANCELLED,
}


class Batch(NamedTuple, Generic[In, Out]):
    """The common state of all passes over a batch."""

    store: Store
    queue_name: str
    runtime: WorkflowRuntime
    pipeline: TypedPipeline[In, Out]
    shared: Shared
    sink: Sink
    key: Callable[[In], str] | None
    headers: Mapping[str, str]
    max_concurrent: int
    fail_threshold: float | None
    switch: Switch


class Pass(Generic[In, Out]):
    """One pass. It holds only the items that were submitted and have not ended, and a chunk.

    Args:
        batch: The batch.
        emit: Receives each record once it is written, including those of items that ended in an
            earlier pass; None if nobody wants them. Call `took` for each.
    """

    def __init__(
        self, batch: Batch[In, Out], emit: Callable[[BulkRecord[Out]], None] | None = None
    ) -> None:
        self._batch = batch
        self._store = batch.store
        self._headers = {**batch.headers}
        self._keys = keys_of(batch.queue_name)
        self._tenure = Tenure(batch.store, batch.queue_name, batch.shared.limits)
        self._headers[RUN_HEADER] = self._tenure.run
        self._helpers = Helpers(batch.store, batch.queue_name)
        self._output = Output(batch.store, batch.queue_name, batch.sink, self._tenure.run)
        self._emit = emit
        self.tally = Tally(batch.store.clock)
        self._in_flight: dict[str, Item] = {}
        """Items that were read, and whose records are not written."""
        self._submitted: dict[str, None] = {}
        """Those of them that are in the store and may run, the oldest first."""
        self._here: set[str] = set()
        """Those of them that this process works on."""
        self._elsewhere: dict[str, asyncio.Task[None]] = {}
        """Tasks that wait for the ends of items which others may work on."""
        self._waiting: set[str] = set()
        """Items that nobody here had begun when the others were last looked at."""
        self._readmitted: set[str] = set()
        """Items that an earlier run had left, and that were read again."""
        self._places = 0
        """How many items other processes run at a time."""
        self._emitted = 0
        """Records that were emitted and not yet taken."""
        self._came_to: dict[str, Ended] = {}
        """Results of pipelines, until it is known whether they were committed."""
        self._to_look_at: dict[str, None] = {}
        """Items that may have ended, in the order of their ends."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._fed = asyncio.Event()
        """Replaced whenever inputs were read, or cannot be read for a while."""
        self._all_read = False
        self._waits_for_room = False
        self._closing = False
        self._leaving = False
        """Whether this pass cancels its tasks, and nobody else."""
        self._leaves_others = False
        """Whether it does not wait for what other processes run."""
        self._cut_off: TaqubaError | None = None
        self._refusal: Callable[[BulkReport], TaqubaError] | None = None
        self._any_ended = True
        """Whether items may have ended before this pass began."""

    @property
    def in_flight(self) -> int:
        """Items that were read and have not ended."""
        return len(self._in_flight)

    @property
    def run_name(self) -> str:
        """The run of the batch."""
        return self._tenure.run

    async def admits(self, step: Step) -> bool:
        """Whether the input of an item has been read, or is read within a moment.

        An item that an earlier pass left behind runs only then: the inputs may have changed.
        """
        if not await self._is_read(step.run_id):
            return False
        self._here.add(step.run_id)
        return True

    async def _is_read(self, run_id: str) -> bool:
        if run_id in self._in_flight:
            return True
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while run_id not in self._in_flight:
                    if self._waits_for_room or self._all_read:
                        return False
                    await self._fed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, inputs: Inputs[In], shutdown: Shutdown | None) -> BulkReport:
        """Process the inputs; returns when all items have ended, or when it is stopped.

        Raises the error of an input, a sink or the store, once the running items have ended.
        """
        await self._tenure.begin()
        keeping = asyncio.create_task(self._tenure.keep(), name="taquba-bulk-tenure")
        keeping.add_done_callback(self._ended)
        try:
            with await work_lock(self._store, self._batch.queue_name):
                await self._run(inputs, shutdown, keeping)
        finally:
            self._leaving = True
            keeping.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((keeping,))
                with suppress(TaqubaError):
                    # Otherwise this process counts as dead before long.
                    await self._tenure.end()
        self.tally.complete = self._is_complete()
        self._check_threshold()
        report = self.tally.report(self._batch.shared.budget.spent())
        if self._refusal is not None:
            raise self._refusal(report)
        return report

    async def _run(
        self, inputs: Inputs[In], shutdown: Shutdown | None, keeping: asyncio.Task[None]
    ) -> None:
        switch = self._batch.switch
        switch.gate = self
        try:
            await self._begin()
            await self._work(inputs, shutdown, keeping)
            await self._batch.shared.budget.look()
        finally:
            switch.gate = None
            with anyio.CancelScope(shield=True):
                await self._output.close()

    def settled(self, run_id: str, ended: Ended | None) -> None:
        """An attempt at an item is over; its result is committed, or never will be."""
        self._here.discard(run_id)
        if run_id not in self._in_flight:
            # Left behind by an earlier pass; it is handled when its input is read.
            return
        if ended is not None:
            self._came_to[run_id] = ended
        self.look_at(run_id)

    def look_at(self, run_id: str) -> None:
        """An item may have ended."""
        self._to_look_at[run_id] = None
        self._news.set()

    def took(self) -> None:
        """An emitted record was taken."""
        self._emitted -= 1
        self._room.set()

    # -- the tasks --------------------------------------------------------------------------

    async def _begin(self) -> None:
        await self._output.open()
        await self._batch.shared.begin(self._tenure.run, self._budget_exceeded)
        await self._helpers.forget_dead(self._tenure.run)
        self._any_ended = bool((await self._store.kv_scan(self._keys.items, limit=1)).entries)

    async def _work(
        self, inputs: Inputs[In], shutdown: Shutdown | None, keeping: asyncio.Task[None]
    ) -> None:
        shared = self._batch.shared
        working = Working(self._batch.runtime, shared)
        feed = asyncio.create_task(self._feed(inputs), name="taquba-bulk-feed")
        collector = asyncio.create_task(self._collect(), name="taquba-bulk-collector")
        watch = asyncio.create_task(_set_by(shutdown, self._over), name="taquba-bulk-shutdown")
        sweep = asyncio.create_task(shared.cache.sweep(), name="taquba-bulk-sweep")
        others = asyncio.create_task(self._watch_others(), name="taquba-bulk-others")
        tasks = (feed, collector, working.task, sweep, others)
        for task in (*tasks, watch):
            task.add_done_callback(self._ended)
        try:
            await self._over.wait()
            if self._is_complete():
                # Otherwise a short batch would never reach its end.
                await asyncio.wait((sweep,))
            else:
                shared.halt()
                with suppress(TaqubaError):
                    # If it has failed, the others find this process dead, or gone.
                    await self._tenure.stop()
        except asyncio.CancelledError:
            # A caller that cancels wants to leave now, and has others give back what they run.
            working.task.cancel()
            self._leaves_others = True
            raise
        finally:
            self._leaving = True
            with anyio.CancelScope(shield=True):
                watch.cancel()
                sweep.cancel()
                feed.cancel()
                others.cancel()
                try:
                    await working.end()
                finally:
                    await asyncio.wait((feed, sweep, others))
                    await self._end_watches()
                    self._closing = True
                    self._news.set()
                    await asyncio.wait((collector,))
        for task in (keeping, *tasks):
            if task.done() and not task.cancelled():
                task.result()
        if collector.cancelled():
            raise was_cancelled(collector)
        if self._cut_off is not None:
            raise self._cut_off

    # -- other processes --------------------------------------------------------------------

    async def _watch_others(self) -> None:
        """Notice the ends of items that other processes work on."""
        now = asyncio.get_running_loop().time
        looked_at = now()
        while True:
            await asyncio.sleep(_TICK_SECONDS if self._places else _LOOK_SECONDS)
            waiting = [run_id for run_id in self._submitted if run_id not in self._here]
            if self._places:
                self._wait_for(waiting)
            if now() - looked_at < _LOOK_SECONDS:
                continue
            looked_at = now()
            # What nobody here begins for that long may have been begun by those who helped before.
            long = [run_id for run_id in waiting if run_id in self._waiting]
            self._waiting = set(waiting)
            self._wait_for(long)
            places = await self._helpers.places(self._tenure.run)
            if places or self._places:
                await together(map(self._look_for, long))
                await self._batch.shared.budget.look()
            self._places = places
            self._room.set()

    def _wait_for(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            if len(self._elsewhere) >= _MOST_WAITS:
                return
            if run_id not in self._elsewhere:
                self._elsewhere[run_id] = asyncio.create_task(self._until_ended(run_id))

    async def _look_for(self, run_id: str) -> None:
        """Look at an item if it has a row, which most of those have that ended."""
        if run_id not in self._elsewhere and await self._row(run_id) is not None:
            self.look_at(run_id)

    async def _until_ended(self, run_id: str) -> None:
        """Look at an item when its run has ended, wherever it ran."""
        runtime = self._batch.runtime
        while run_id in self._in_flight:
            try:
                status = await runtime.wait_for_completion(run_id, _LONG_SECONDS)
                is_over = status is not None and status.state.ended
            except TaqubaError as error:
                # Where it cannot be read, this raises once it is looked at.
                is_over = error.permanent
            if is_over:
                self.look_at(run_id)
            # It is being submitted, or being looked at.
            await asyncio.sleep(_TICK_SECONDS)

    async def _end_watches(self) -> None:
        """Wait until no other process works on items of this run."""
        with suppress(TaqubaError):
            # If the store has failed, the other tasks say so.
            while not self._leaves_others and await self._others_work():  # noqa: ASYNC110
                await asyncio.sleep(_TICK_SECONDS)
        watches = list(self._elsewhere.values())
        for watch in watches:
            watch.cancel()
        if watches:
            await asyncio.wait(watches)

    async def _others_work(self) -> bool:
        """Whether other processes work on items; looks at those that have ended."""
        run_ids = [run_id for run_id in self._submitted if run_id not in self._here]
        found = await together(map(self._batch.runtime.status, run_ids))
        for run_id, status in zip(run_ids, found, strict=True):
            if status is not None and status.state.ended:
                self.look_at(run_id)
        return any(status is not None and status.state in _WORKED_ON for status in found)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task has ended: a failure ends the pass."""
        if task.cancelled() and not self._leaving:
            self._cut_off = was_cancelled(task)
        if task.cancelled() or task.exception() is not None:
            self._over.set()

    async def _feed(self, inputs: Inputs[In]) -> None:
        self.tally.expected = await expected(inputs)
        keying = Keying(self._batch.pipeline.inputs, self._batch.key)
        try:
            async with aclosing(chunks(inputs, _CHUNK)) as read:
                async for chunk in read:
                    await self._until_room()
                    items = await anyio.to_thread.run_sync(keying.items, chunk)
                    self.tally.read += len(items)
                    await self._admit(items)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(keying.close)
        self._all_read = True
        self._tell_fed()
        self._check_over()

    async def _until_room(self) -> None:
        while len(self._in_flight) + self._emitted > self._batch.max_concurrent + self._places:
            self._waits_for_room = True
            self._tell_fed()
            self._room.clear()
            await self._room.wait()
        self._waits_for_room = False

    def _tell_fed(self) -> None:
        self._fed.set()
        self._fed = asyncio.Event()

    async def _collect(self) -> None:
        while not self._closing or self._to_look_at:
            await self._news.wait()
            self._news.clear()
            looked_at, self._to_look_at = self._to_look_at, {}
            found = await together(map(self._look, looked_at))
            ended = iter([pair for pair in found if pair is not None])
            while group := list(islice(ended, LARGEST_GROUP)):
                await self._finish(group)

    # -- items ------------------------------------------------------------------------------

    async def _admit(self, items: Sequence[Item]) -> None:
        """Submit the items that are new, and look up the others."""
        self._in_flight.update((item.run_id, item) for item in items)
        self._tell_fed()
        rows: list[ItemRow | None] = [None] * len(items)
        if self._any_ended:
            rows = await together(self._row(item.run_id) for item in items)
        await together(
            self._submit(item) for item, row in zip(items, rows, strict=True) if row is None
        )
        for item, row in zip(items, rows, strict=True):
            if row is not None:
                self._meet(item, row)
        self._check_over()

    async def _submit(self, item: Item) -> None:
        spec = RunSpec(
            item.payload,
            run_id=item.run_id,
            headers=self._headers,
            max_attempts=UNBOUNDED,
        )
        submitted = await self._batch.runtime.submit(spec)
        if item.run_id in self._in_flight:
            self._submitted[item.run_id] = None
        if not submitted.new:
            # For those who did not see it read.
            self._readmitted.add(item.run_id)
            key = self._keys.readmitted(item.run_id)
            await self._store.kv_put(key, self._tenure.run.encode())
            self.look_at(item.run_id)

    def _meet(self, item: Item, row: ItemRow) -> None:
        """An item that has ended before it was read."""
        if row.input_hash != hash_of(item.payload):
            raise InputMismatch(item.run_id)
        if self._emit is None and self._output.holds(row):
            if self._in_flight.pop(item.run_id, None) is not None:
                self._count(item.run_id, row, resumed=True)
        else:
            self.look_at(item.run_id)

    async def _row(self, run_id: str) -> ItemRow | None:
        found = await self._store.kv_get(self._keys.item(run_id))
        return None if found is None else ItemRow.decode(run_id, found)

    async def _look(self, run_id: str) -> tuple[BulkRecord[Out], ItemRow] | None:
        """The record of an item, if it has ended and its record is needed."""
        item = self._in_flight.get(run_id)
        came_to = self._came_to.pop(run_id, None)
        if item is None:
            return None
        row = await self._row(run_id)
        if row is not None and came_to is not None and came_to.row == row:
            return self._record(item, row, came_to.output, came_to.error), row
        status = await self._batch.runtime.status(run_id)
        if status is None or not status.state.ended:
            return None
        if row is None:
            # It may have ended since its row was read.
            row = await self._row(run_id)
        if row is None:
            row = ItemRow(_STATUS_OF[status.state], {}, 0, hash_of(item.payload))
            await self._batch.shared.budget.write_off_item(run_id)
            # Before its record, in the same order as for other ends.
            await self._store.kv_put(self._keys.item(run_id), row.encode())
        return self._record(item, row, status.result, status.reason), row

    def _record(
        self, item: Item, row: ItemRow, packed: bytes | None, error: str | None
    ) -> BulkRecord[Out]:
        outputs = self._batch.pipeline.outputs
        output: Out | None = None
        plain: object = None
        if row.status is ItemStatus.SUCCEEDED and packed is not None:
            output = outputs.load(packed)
            plain = outputs.shown(output)
        return BulkRecord(
            index=item.index,
            key=item.key,
            run_id=item.run_id,
            status=row.status,
            output=output,
            error=error,
            cost=row.amounts(),
            plain_output=plain,
        )

    async def _finish(self, group: Sequence[tuple[BulkRecord[Out], ItemRow]]) -> None:
        """Write records, and drop their items."""
        await self._tenure.confirm()
        await self._output.write([pair for pair in group if not self._output.holds(pair[1])])
        await self._forget_readmitted([record.run_id for record, _ in group])
        for record, row in group:
            self._in_flight.pop(record.run_id)
            self._submitted.pop(record.run_id, None)
            watch = self._elsewhere.pop(record.run_id, None)
            if watch is not None:
                watch.cancel()
            self._count(record.run_id, row, resumed=False)
            if self._emit is not None:
                self._emitted += 1
                self._emit(record)
        self._room.set()
        self._check_over()

    async def _forget_readmitted(self, run_ids: Sequence[str]) -> None:
        """What no settlement of theirs has removed: they may have ended in another way."""
        if self._readmitted:
            read_again = self._readmitted.intersection(run_ids)
            self._readmitted -= read_again
            await together(self._store.kv_delete(self._keys.readmitted(one)) for one in read_again)

    def _count(self, run_id: str, row: ItemRow, *, resumed: bool) -> None:
        self.tally.count(run_id, row.status, Costs(row.costs), resumed=resumed)
        if row.status is ItemStatus.FAILED:
            self._check_threshold()

    def _check_threshold(self) -> None:
        threshold = self._batch.fail_threshold
        if threshold is not None and self.tally.exceeds(threshold):
            self._stop(lambda report: FailureThresholdExceeded(report, threshold))

    def _budget_exceeded(self, metric: str) -> None:
        limit = self._batch.shared.budget.limit(metric)
        self._stop(lambda report: BudgetExceeded(report, metric, limit))

    def _stop(self, refusal: Callable[[BulkReport], TaqubaError]) -> None:
        """Start no further items, and raise when the running ones have ended."""
        self._refusal = self._refusal or refusal
        self._over.set()

    def _check_over(self) -> None:
        if self._is_complete():
            self._over.set()

    def _is_complete(self) -> bool:
        return self._all_read and not self._in_flight


async def _set_by(shutdown: Shutdown | None, over: asyncio.Event) -> None:
    if shutdown is not None:
        await shutdown.wait()
        over.set()
