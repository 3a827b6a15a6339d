"""One pass over the inputs of a batch: submits items, and writes those that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
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
from taquba_bulk._shared import Shared
from taquba_bulk._sinks import Sink
from taquba_workflow import InputMismatch, RunSpec, RunState, WorkflowRuntime

In = TypeVar("In")
Out = TypeVar("Out")

_CHUNK: Final = 200
"""Inputs that are read, looked up and submitted together, so that they share commits."""

_PATIENCE_SECONDS: Final = 1.0
"""How long, in real time, an item that was left by an earlier pass waits for its input."""

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
        self._keys = keys_of(batch.queue_name)
        self._output = Output(batch.store, batch.queue_name, batch.sink)
        self._emit = emit
        self.tally = Tally(batch.store.clock)
        self._in_flight: dict[str, Item] = {}
        """Items that were read, and whose records are not written."""
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
        self._cut_off: TaqubaError | None = None
        self._refusal: Callable[[BulkReport], TaqubaError] | None = None
        self._any_ended = True
        """Whether items may have ended before this pass began."""

    @property
    def in_flight(self) -> int:
        """Items that were read and have not ended."""
        return len(self._in_flight)

    async def is_read(self, run_id: str) -> bool:
        """Whether the input of an item has been read, or is read within a moment.

        An item that an earlier pass left behind runs only then: the inputs may have changed.
        """
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
        try:
            await self._begin()
            await self._work(inputs, shutdown)
        finally:
            with anyio.CancelScope(shield=True):
                await self._output.close()
        self.tally.complete = self._is_complete()
        self._check_threshold()
        report = self.tally.report(self._batch.shared.budget.spent())
        if self._refusal is not None:
            raise self._refusal(report)
        return report

    def settled(self, run_id: str, ended: Ended | None) -> None:
        """An attempt at an item is over; its result is committed, or never will be."""
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
        await self._batch.shared.begin(self._budget_exceeded)
        self._any_ended = bool((await self._store.kv_scan(self._keys.items, limit=1)).entries)

    async def _work(self, inputs: Inputs[In], shutdown: Shutdown | None) -> None:
        drain = asyncio.Event()
        runtime = asyncio.create_task(self._batch.runtime.run(drain), name="taquba-bulk-runtime")
        feed = asyncio.create_task(self._feed(inputs), name="taquba-bulk-feed")
        collector = asyncio.create_task(self._collect(), name="taquba-bulk-collector")
        watch = asyncio.create_task(_set_by(shutdown, self._over), name="taquba-bulk-shutdown")
        sweep = asyncio.create_task(self._batch.shared.cache.sweep(), name="taquba-bulk-sweep")
        tasks = (feed, collector, runtime, sweep)
        for task in (*tasks, watch):
            task.add_done_callback(self._ended)
        try:
            await self._over.wait()
            if self._is_complete():
                # Otherwise a short batch would never reach its end.
                await asyncio.wait((sweep,))
        except asyncio.CancelledError:
            # A caller that cancels wants to leave now.
            runtime.cancel()
            raise
        finally:
            self._leaving = True
            with anyio.CancelScope(shield=True):
                watch.cancel()
                sweep.cancel()
                feed.cancel()
                self._batch.shared.halt()
                drain.set()
                try:
                    await self._until_drained(runtime)
                finally:
                    await asyncio.wait((feed, sweep))
                    self._closing = True
                    self._news.set()
                    await asyncio.wait((collector,))
        for task in tasks:
            if not task.cancelled():
                task.result()
        if collector.cancelled():
            raise was_cancelled(collector)
        if self._cut_off is not None:
            raise self._cut_off

    async def _until_drained(self, runtime: asyncio.Task[None]) -> None:
        """Wait until all attempts have ended, except those that were suspended."""
        parked = asyncio.create_task(self._batch.shared.attempts.all_parked())
        try:
            await asyncio.wait((runtime, parked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also if this is cancelled: the caller wants to leave now.
            parked.cancel()
            runtime.cancel()
            await asyncio.wait((runtime, parked))

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
        while len(self._in_flight) + self._emitted > self._batch.max_concurrent:
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
            headers=self._batch.headers,
            max_attempts=UNBOUNDED,
        )
        if not (await self._batch.runtime.submit(spec)).new:
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
        await self._output.write([pair for pair in group if not self._output.holds(pair[1])])
        for record, row in group:
            self._in_flight.pop(record.run_id)
            self._count(record.run_id, row, resumed=False)
            if self._emit is not None:
                self._emitted += 1
                self._emit(record)
        self._room.set()
        self._check_over()

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
