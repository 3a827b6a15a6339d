"""`Bulk`: one pipeline over many inputs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import anyio

from taquba import InvalidArgument, InvalidArgumentType, Store
from taquba.extending import Shutdown, locks_of, made_for, was_cancelled
from taquba.extending.checks import at_least_one, check_shutdown, instance, plain_function
from taquba_bulk import _values
from taquba_bulk._display import showing
from taquba_bulk._helping import BulkHelper
from taquba_bulk._inputs import Inputs, check_inputs
from taquba_bulk._pass import Batch, Pass
from taquba_bulk._pipeline import Pipeline, TypedPipeline
from taquba_bulk._rates import Rate
from taquba_bulk._records import BulkRecord
from taquba_bulk._report import BulkReport, ProgressSnapshot, Tally
from taquba_bulk._runner import ItemRunner
from taquba_bulk._running import RUN_HEADER, already_running
from taquba_bulk._shared import Shared
from taquba_bulk._sinks import NullSink, Sink
from taquba_bulk._working import Switch
from taquba_workflow import RunSpec, WorkflowRuntime

In = TypeVar("In")
Out = TypeVar("Out")

_NOWHERE: Final = NullSink()


class Bulk(Generic[In, Out]):
    """A batch: one pipeline over many inputs, each a durable run of its own.

    Running the batch again, in the same store and under the same `queue_name`, continues where it
    stopped, for whatever reason: items that have ended are not run again, finished phases of the
    others are not repeated, and the output has one row for each item.

        async with Queue.open("./data") as queue:
            bulk = Bulk(queue, summarize, output=JsonlSink("out.jsonl"))
            report = await bulk.run(read_jsonl("in.jsonl", Document))

    One process at a time runs the batch. Others that have made the same `Bulk` work on its items
    while they are in its block:

        async with Service("./data") as service, Bulk(service, summarize):
            await asyncio.Event().wait()

    Args:
        store: A handle on the store: a `taquba.Queue`, or a `taquba.Service` of any process, which
            may be entered later.
        pipeline: ``async def run(ctx: BulkContext[In]) -> Out``, a function or an object with
            that method. Inputs and outputs are checked and stored by these annotations.
        output: Where records of ended items go.
        key: Makes the key of an input, which identifies it when the batch is run again; called in a
            worker thread. No two inputs may have the same key. By default the key is made from the
            input's content, and equal inputs are numbered.
        headers: Small string pairs that every pipeline sees.
        max_concurrent: Items that run at the same time in this process.
        queue_name: Names the batch in its store. Configure attempts and backoff of its items under
            this name.
        fail_threshold: Stop when more items than this fail: a number (int), or a share of the
            inputs (float, less than 1). With None, the batch continues whatever fails.
        budget: The maximum cost of the batch's paid calls, by metric, as in ``{"usd": 50}``, over
            all its runs that had a budget. See `BulkContext.paid_call`. The budget and the rate
            limits of the process that runs the batch hold for all processes together.
        rate: Rate limits by key: at most a number of calls in any period, as in ``{"llm": (500,
            "1m")}``. See `BulkContext.acquire`.
        progress: Show the progress on standard error: as a bar, if that is a terminal and rich is
            installed, otherwise as a line every ten seconds.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline[In, Out],
        *,
        output: Sink = _NOWHERE,
        key: Callable[[In], str] | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrent: int = 100,
        queue_name: str = "bulk",
        fail_threshold: float | None = None,
        budget: Mapping[str, float] | None = None,
        rate: Mapping[str, Rate] | None = None,
        progress: bool = False,
    ) -> None:
        instance(store, Store, "store")
        _check_sink(output)
        if key is not None and not callable(key):
            raise InvalidArgumentType(f"key must be a function of an input, not {key!r}")
        plain_function(key, "key")
        headers = dict(headers or {})
        # Refuses now the names that every submission would refuse.
        RunSpec(b"", headers=headers)
        if RUN_HEADER in headers:
            raise InvalidArgument(f"headers must not have {RUN_HEADER!r}, which is the batch's own")
        typed = TypedPipeline(pipeline)
        shared = Shared(store, queue_name, rate, budget)
        attempts = store.config(queue_name).max_attempts
        switch = Switch()
        runtime = WorkflowRuntime(
            store,
            ItemRunner(typed, queue_name, attempts, shared, switch),
            queue_name=queue_name,
            max_concurrent_steps=at_least_one(max_concurrent, "max_concurrent"),
        )
        self._batch: Batch[In, Out] = Batch(
            store,
            queue_name,
            runtime,
            typed,
            shared,
            output,
            key,
            headers,
            max_concurrent,
            _values.threshold(fail_threshold),
            switch,
        )
        self._helper = BulkHelper(store, queue_name, runtime, shared, switch, max_concurrent)
        self._shows = progress
        self._pass: Pass[In, Out] | None = None
        made_for(store, self, instead_of=runtime)

    async def __aenter__(self) -> Self:
        """Work on items of this batch, for the length of the block, whenever another runs it."""
        await self._helper.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._helper.__aexit__(kind, error, trace)

    async def run(self, inputs: Inputs[In], shutdown: Shutdown | None = None) -> BulkReport:
        """Run the pipeline on every input; returns when all items have ended.

        Inputs are read as fast as items end, so they may be larger than memory. A plain iterable is
        read in a worker thread.

        Args:
            inputs: An iterable or async iterable of inputs.
            shutdown: When it is set, no further item is started, and `run` returns when the running
                ones have ended; the report is then not `complete`. If `run` is cancelled instead,
                running items are cancelled too, and return without spending their attempt.

        Raises:
            FailureThresholdExceeded: More items failed than allowed; it has the report.
            BudgetExceeded: A call could not be paid; it has the report.
            DuplicateKey: Two inputs have the same key.
            InputMismatch: An item with this key was run before with another input.
            InvalidArgument: An input does not fit the pipeline, the output belongs to another
                batch, or another process runs the batch. For one that was killed, this waits some
                seconds to be sure, and then continues.
            StoreError: The store fails, the output cannot be written, or another process has taken
                the batch over, because this one did not answer for some seconds.
        """
        check_inputs(inputs)
        check_shutdown(shutdown)
        with self._one_pass(Pass(self._batch)) as this:
            return await self._run(this, inputs, shutdown)

    async def stream(
        self, inputs: Inputs[In], shutdown: Shutdown | None = None
    ) -> AsyncGenerator[BulkRecord[Out]]:
        """Like `run`, but yields the record of each item when it has ended and is written.

        Items that ended in an earlier run are included, without being run again. Inputs are read as
        fast as records are consumed. Ending the iteration early cancels the running items; close
        the generator then (`contextlib.aclosing`).
        """
        check_inputs(inputs)
        check_shutdown(shutdown)
        ready: deque[BulkRecord[Out]] = deque()
        news = asyncio.Event()

        def emit(record: BulkRecord[Out]) -> None:
            ready.append(record)
            news.set()

        with self._one_pass(Pass(self._batch, emit)) as this:
            running = asyncio.create_task(self._run(this, inputs, shutdown), name="taquba-bulk")
            running.add_done_callback(lambda _: news.set())
            try:
                while ready or not running.done():
                    if not ready:
                        await news.wait()
                        news.clear()
                        continue
                    record = ready.popleft()
                    this.took()
                    yield record
                if running.cancelled():
                    raise was_cancelled(running)
                running.result()
            finally:
                running.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait((running,))

    def progress(self) -> ProgressSnapshot:
        """Return the progress of the batch, or its progress when it last ran."""
        if self._pass is None:
            return Tally(self._batch.store.clock).snapshot(0)
        return self._pass.tally.snapshot(self._pass.in_flight)

    async def cancel(self, run_id: str) -> bool:
        """End an item as cancelled; durable on return.

        A running item is asked to stop through its `BulkContext.cancel_token`.

        Returns:
            False if it has ended, or was not submitted yet.
        """
        found = await self._batch.runtime.cancel(run_id)
        if found and self._pass is not None:
            self._pass.look_at(run_id)
        return found

    async def _run(
        self, this: Pass[In, Out], inputs: Inputs[In], shutdown: Shutdown | None
    ) -> BulkReport:
        async with showing(self.progress) if self._shows else nullcontext():
            return await this.run(inputs, shutdown)

    @contextmanager
    def _one_pass(self, this: Pass[In, Out]) -> Generator[Pass[In, Out]]:
        name = self._batch.queue_name
        held = locks_of(self._batch.store).take_free([("taquba_bulk", name)])
        if held is None:
            raise already_running(name)
        with held:
            self._pass = this
            yield this


def _check_sink(output: Any) -> None:
    if not all(
        callable(getattr(output, name, None)) for name in ("create", "resume", "write", "close")
    ):
        raise InvalidArgumentType(
            f"output must be a sink, such as JsonlSink('out.jsonl'), not {output!r}"
        )
