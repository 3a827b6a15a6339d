"""`WorkflowRuntime`: submits, controls and runs the runs of one workflow queue."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import anyio

from taquba import (
    CancelOutcome,
    ClaimLost,
    Clock,
    Duration,
    EnqueueRequest,
    EntryChanged,
    InvalidArgument,
    JobRecord,
    KvKey,
    QueueClosed,
    SettlementEffects,
    Store,
    StoreError,
    WorkerSpec,
    run_workers,
)
from taquba.extending import (
    OutcomeUnknown,
    RunsInBackground,
    Shutdown,
    made_for,
    only_runner,
    seen_through,
    until_one_ends,
)
from taquba.extending.checks import at_least_one, duration_ms, instance, plain_function
from taquba.extending.parking import parked_jobs
from taquba.extending.times import to_ms
from taquba_workflow import _headers, _values
from taquba_workflow._cancelling import PATIENCE, withdraw, write_down
from taquba_workflow._errors import InputMismatch
from taquba_workflow._functions.definitions import Workflow
from taquba_workflow._functions.handles import RunHandle, StartOptions
from taquba_workflow._functions.history import CallRecord, read_history
from taquba_workflow._functions.phases import Services
from taquba_workflow._functions.runner import FunctionRunner
from taquba_workflow._functions.turn import RunningTurns
from taquba_workflow._handler import WorkflowHandler
from taquba_workflow._keys import keys_of
from taquba_workflow._kinds.ended_run import EndedRun
from taquba_workflow._kinds.settling import CANCELLED, Settling
from taquba_workflow._outcomes import Suspend
from taquba_workflow._records import (
    LiveRun,
    RunSpec,
    RunState,
    RunStatus,
    SubmitOutcome,
    encode_run,
)
from taquba_workflow._retention import Retention
from taquba_workflow._signals import SignalBoard, SignalOutcome
from taquba_workflow._status import parked_status, read_run, read_status, read_step_job
from taquba_workflow._steps import Runner, StepJob, read_step
from taquba_workflow._termination import Notifier, TerminalHook, termination_queue
from taquba_workflow._transitions import (
    UNBOUNDED,
    Basis,
    Ending,
    end_run,
    first_step,
    next_turn,
)

P = ParamSpec("P")
T = TypeVar("T")


class WorkflowRuntime(RunsInBackground):
    """Runs of steps and of functions: durable, one atomic commit per step.

    Use it with ``async with``, or await `run`; submitting, reading, signalling and cancelling work
    without either, and need only the store.

        async with Queue.open("./data") as queue, WorkflowRuntime(queue, MyRunner()) as runtime:
            await runtime.submit(RunSpec(b"input", run_id="order-17"))

        async with WorkflowRuntime(queue, workflows=[order]) as runtime:
            receipt = await (await runtime.start(order, "order-17"))

    With a `taquba.Service` every process of it may have a runtime of the same workflows: each runs
    what it has places for, and any of them may be asked for everything. Make it where the service
    is made; it works once that was entered.

    Args:
        store: A `taquba.Queue` or `taquba.Service`; the runtime belongs to its event loop.
        runner: The code of runs that are submitted as such: an object with
            ``async run_step(step)``.
        workflows: The functions that this program has, see `workflow`. Runs of other functions
            wait, see `parked`.
        hook: Notified of every end of a run.
        queue_name: The queue of the steps; one runtime per name in a process. Configure retries,
            backoff and leases of steps under this name, and those of the hook under
            ``{queue_name}.termination``.
        max_concurrent_steps: Steps, and calls of the hook, that run at the same time.
        poll_interval: As for `taquba.run_worker`, seconds.
        memo_retention: How long a run's outcome and memos are kept after its end, seconds or
            `timedelta`; None keeps them forever. After that, its id is free again.
        step_output_replay: Make the output of a step durable before it is settled, so that a step
            that has returned does not run again after a crash. Costs a commit per step.
        clock: The clock; the queue's by default.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner | None = None,
        *,
        workflows: Iterable[Workflow[..., Any]] = (),
        hook: TerminalHook | None = None,
        queue_name: str = "workflow",
        max_concurrent_steps: int = 100,
        poll_interval: Duration = 1,
        memo_retention: Duration | None = None,
        step_output_replay: bool = False,
        clock: Clock | None = None,
    ) -> None:
        instance(store, Store, "store")
        functions = list(workflows)
        if runner is not None:
            _values.method(runner, "run_step", "runner")
        elif not functions:
            raise InvalidArgument("a WorkflowRuntime needs a runner, or workflows, or both")
        if hook is not None:
            _values.method(hook, "on_termination", "hook")
            plain_function(getattr(hook, "observes", None), "observes() of the hook")
        at_least_one(max_concurrent_steps, "max_concurrent_steps")
        self._store = store
        self._queue_name = queue_name
        self._default_max_attempts = store.config(queue_name).max_attempts
        # Refuses now a name that leaves no room for the other queue's, which ends of runs need.
        store.config(termination_queue(queue_name))
        self._ended_runs = None if hook is None else EndedRun(hook)
        self._max_concurrent_steps = max_concurrent_steps
        self._poll_interval = poll_interval
        self._clock = store.clock if clock is None else clock
        self._signals = SignalBoard(store, queue_name)
        self._notifier = Notifier(queue_name, hook)
        self._retention: Retention | None = None
        if memo_retention is not None:
            keep_ms = duration_ms(memo_retention, "memo_retention")
            self._retention = Retention(store, queue_name, self._clock, keep_ms)
        self._running_turns = RunningTurns()
        # A virtual clock would otherwise move on in the middle of a long replay.
        self._clock.attach(lambda: self._running_turns.busy)
        services = Services(
            store=store,
            clock=self._clock,
            threads=anyio.CapacityLimiter(max_concurrent_steps),
            check_known=lambda workflow: self._functions.check_known(workflow),
            start=self._start_child,
            cancel=self.cancel,
            turns=self._running_turns,
        )
        self._functions = FunctionRunner(
            functions, services, max_attempts=self._default_max_attempts
        )
        settling = Settling(
            store,
            queue_name,
            clock=self._clock,
            signals=self._signals,
            end_run=self._end_run,
            ended=self._ended,
        )
        self._handler = WorkflowHandler(
            settling, runner, self._functions.run, replay=step_output_replay
        )
        made_for(store, self)

    # -- run --------------------------------------------------------------------------------

    def _is_heard_of(self, failure: BaseException) -> bool:
        # Of a store that failed every call tells; of workers that ended nobody does who awaits
        # what they were to do.
        return isinstance(failure, StoreError | QueueClosed)

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Run steps and the hook until `shutdown` is set; waits for running steps.

        Functions continue with the next process once their running steps have ended.

        If it is cancelled, running steps are cancelled too, and return without spending their
        attempt. It raises the error that ends a worker loop: the store is gone, fenced or closed.
        """
        workers = [
            WorkerSpec(
                self._queue_name,
                self._handler.handle,
                concurrency=self._max_concurrent_steps,
                poll_interval=self._poll_interval,
            )
        ]
        if self._ended_runs is not None:
            workers.append(
                WorkerSpec(
                    termination_queue(self._queue_name),
                    self._ended_runs.process,
                    concurrency=self._max_concurrent_steps,
                    poll_interval=self._poll_interval,
                )
            )
        with only_runner(self._store, {worker.queue: worker.handler for worker in workers}):
            await self._run(workers, shutdown)

    async def _run(self, workers: Sequence[WorkerSpec], shutdown: Shutdown | None) -> None:
        self._running_turns.go_on()
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "taquba-workflow-workers": run_workers(
                self._store, *workers, shutdown=shutdown, handle_signals=False
            ),
            "taquba-workflow-stopping": self._stop_turns(shutdown),
        }
        if self._retention is not None:
            loops["taquba-workflow-retention"] = self._retention.run()
        await until_one_ends(loops)

    async def _stop_turns(self, shutdown: Shutdown | None) -> None:
        """Have turns end when the workers are asked to end, which then do."""
        if shutdown is not None:
            await shutdown.wait()
            self._running_turns.stop()
        await asyncio.get_running_loop().create_future()

    # -- runs -------------------------------------------------------------------------------

    async def submit(self, spec: RunSpec) -> SubmitOutcome:
        """Start a run, unless it was submitted before; durable on return.

        The same id and input may be submitted any number of times, even after a restart and after
        the run has ended, as long as retention keeps its outcome.

        Raises:
            InputMismatch: The id was submitted with another input; nothing was written.
        """
        instance(spec, RunSpec, "spec")
        attempts = self._default_max_attempts if spec.max_attempts is None else spec.max_attempts
        return await self._submit(spec, attempts)

    async def start(
        self, workflow: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> RunHandle[T]:
        """Start a run of a function; durable on return.

            handle = await runtime.start(order, "order-17")
            receipt = await handle

        Raises:
            InvalidArgument: The arguments do not fit the function, or the runtime was not given
                the workflow.
        """
        return await self._start_function(workflow, StartOptions(), args, kwargs)

    async def start_with(
        self,
        options: StartOptions,
        workflow: Workflow[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> RunHandle[T]:
        """Like `start`, with a custom id, headers, a priority or a start time.

        Raises:
            InputMismatch: The id was submitted with other arguments; nothing was written.
        """
        instance(options, StartOptions, "options")
        return await self._start_function(workflow, options, args, kwargs)

    async def _start_function(
        self,
        workflow: Workflow[..., T],
        options: StartOptions,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> RunHandle[T]:
        self._functions.check_known(workflow)
        spec = options.spec(workflow.input(args, kwargs))
        submitted = await self._submit(spec, UNBOUNDED, self._of_function(workflow, spec))
        return RunHandle(self, workflow, submitted.run_id, new=submitted.new)

    def handle(self, workflow: Workflow[P, T], run_id: str) -> RunHandle[T]:
        """Return a handle on a run that was started before, even by an earlier process."""
        self._functions.check_known(workflow)
        _values.run_id(run_id)
        return RunHandle(self, workflow, run_id, new=False)

    async def _start_child(
        self,
        workflow: Workflow[..., Any],
        run_id: str,
        input: bytes,
        *,
        parent: StepJob,
        writes: Mapping[KvKey, bytes],
    ) -> None:
        spec = RunSpec(input, run_id=run_id, priority=parent.priority)
        headers = {**self._of_function(workflow, spec), _headers.PARENT: parent.run_id}
        # As long as the parent's turn is the one that starts it.
        row = encode_run(
            LiveRun(parent.input_hash, parent.submitted_at, parent.step_number, parent.job_id)
        )
        key = keys_of(self._queue_name).run(parent.run_id)
        try:
            await self._submit(spec, UNBOUNDED, headers, writes, {key: row})
        except EntryChanged:
            raise ClaimLost(parent.job_id, "its run has moved on") from None

    def _of_function(self, workflow: Workflow[..., Any], spec: RunSpec) -> dict[str, str]:
        """The headers of a function's first turn."""
        starts_at = self._clock.time_ms()
        if spec.run_at is not None:
            starts_at = max(starts_at, to_ms(spec.run_at))
        return {
            _headers.FUNCTION: workflow.name,
            _headers.VERSION: str(workflow.version),
            _headers.STARTED_AT: str(starts_at),
        }

    async def _submit(
        self,
        spec: RunSpec,
        max_attempts: int,
        headers: Mapping[str, str] | None = None,
        writes: Mapping[KvKey, bytes] | None = None,
        expected: Mapping[KvKey, bytes | None] | None = None,
    ) -> SubmitOutcome:
        def request(run_id: str) -> EnqueueRequest:
            return first_step(
                self._queue_name,
                spec,
                run_id,
                self._store.next_job_id(),
                max_attempts,
                self._clock.time_ms(),
                own_headers=headers or {},
                own_writes=writes or {},
            )

        if spec.run_id is None:
            run_id = self._store.next_job_id()
            new_run = request(run_id)
            try:
                await self._store.enqueue_batch([new_run])
            except OutcomeUnknown:
                await seen_through(self._submit_once(spec, run_id, new_run, {}))
            return SubmitOutcome(run_id, True)
        new_run = request(spec.run_id)
        return await seen_through(self._submit_once(spec, spec.run_id, new_run, expected or {}))

    async def _submit_once(
        self,
        spec: RunSpec,
        run_id: str,
        new_run: EnqueueRequest,
        others: Mapping[KvKey, bytes | None],
    ) -> SubmitOutcome:
        """Submit a run, unless it was; raises `EntryChanged` where one of others is different."""
        key = keys_of(self._queue_name).run(run_id)
        while True:
            try:
                # Most ids are new.
                await self._store.enqueue_batch([new_run], kv_expected={**others, key: None})
            except (EntryChanged, OutcomeUnknown) as unsure:
                if isinstance(unsure, EntryChanged) and unsure.key != key.encode():
                    raise
                run = await read_run(self._store, self._queue_name, run_id, durable=True)
            else:
                return SubmitOutcome(run_id, True)
            if run is not None and run.input_hash != spec.input_hash():
                raise InputMismatch(run_id)
            if run is not None:
                # The call may have been carried out by an owner that did not live to answer it.
                own = isinstance(run, LiveRun) and run.job_id == new_run.job_id
                return SubmitOutcome(run_id, own)

    async def status(self, run_id: str) -> RunStatus | None:
        """Return the status of a run; None if it was never submitted, or has been removed."""
        _values.run_id(run_id)
        return await read_status(self._store, self._queue_name, run_id)

    async def history(self, run_id: str) -> list[CallRecord]:
        """Return the calls of a run's function so far, in the order of its code."""
        return await read_history(self._store, run_id, queue_name=self._queue_name)

    async def parked(self) -> list[RunStatus]:
        """Return the runs that wait for a program that can continue them; `last_error` says why.

        Either this program does not have the function, or only an older version of it, or the
        function has changed so that it does not make the calls that the run has made
        (`NonDeterminism`). Parked runs are tried again every half a minute, young ones sooner where
        another process may have the function.
        """
        return [parked_status(job) async for job in parked_jobs(self._store, self._queue_name)]

    async def wait_for_completion(self, run_id: str, timeout: Duration) -> RunStatus | None:
        """Wait until a run has ended; does not poll.

        Args:
            run_id: The run.
            timeout: Seconds, on the runtime's clock.

        Returns:
            Its status then, or after the timeout; None for a run that does not exist.
        """
        _values.run_id(run_id)
        remaining_ms = duration_ms(timeout, "timeout")
        deadline = self._clock.time_ms() + remaining_ms
        while remaining_ms > 0:
            run = await read_run(self._store, self._queue_name, run_id, durable=True)
            if not isinstance(run, LiveRun):
                break
            await self._store.wait_for_completion(run.job_id, remaining_ms / 1000)
            remaining_ms = deadline - self._clock.time_ms()
        return await read_status(self._store, self._queue_name, run_id)

    async def cancel(self, run_id: str) -> bool:
        """End a run as cancelled; durable on return.

        A waiting step is removed at once. A running one is asked to stop by its cancel token, and
        the run ends when the step settles, whatever its outcome; its staged effects are discarded.
        A function makes no new call, and its compensations run before it ends.

        Returns:
            False if there is no such run, or it has ended.
        """
        _values.run_id(run_id)
        return await seen_through(self._cancel(run_id))

    async def _cancel(self, run_id: str) -> bool:
        step: StepJob | None = None
        refused = 0
        while True:
            found = await read_step_job(self._store, self._queue_name, run_id, durable=True)
            if not isinstance(found, JobRecord):
                # A step, or another call, may have ended the run on behalf of this one.
                lived = step is not None
                cancelled = lived and found is not None and found.state is RunState.CANCELLED
                break
            step = read_step(found)
            if cancelled := await self._cancel_step(step):
                break
            refused += 1
            if refused == PATIENCE:
                await write_down(self._store, step)
        if step is not None and refused >= PATIENCE:
            await withdraw(self._store, step)
        return cancelled

    async def _cancel_step(self, step: StepJob) -> bool:
        """Cancel a run by its step; False when something has changed meanwhile."""
        if step.function is not None and step.function.cancelling:
            return True
        expected: dict[KvKey, bytes | None] = {}
        rows = await self._signals.rows(step.waited_for, expected)
        basis = Basis(rows, expected, unless_cancelled=False)
        if step.function is None:
            effects = self._end_run(step, CANCELLED, SettlementEffects(), basis)
        else:
            # A turn that begins at once takes the place of the one that waits.
            asked = Suspend(at_once=True, cancelling=True)
            now = self._clock.now()
            effects = next_turn(step, asked, basis, (), self._store.next_job_id(), now)
        try:
            cancelled = await self._store.cancel(step.job_id, effects)
        except EntryChanged:
            return False
        if cancelled is CancelOutcome.REMOVED:
            self._ended()
        return cancelled is not CancelOutcome.NOT_FOUND

    def _end_run(
        self, step: StepJob, ending: Ending, staged: SettlementEffects, basis: Basis
    ) -> SettlementEffects:
        now_ms = self._clock.time_ms()
        return end_run(step, ending, staged, basis, self._notifier.announce, now_ms)

    def _ended(self) -> None:
        """The end of a run has landed."""
        if self._retention is not None:
            self._retention.ended(self._clock.time_ms())

    # -- signals ----------------------------------------------------------------------------

    async def signal(self, key: str, payload: bytes = b"") -> SignalOutcome:
        """Wake the run that waits for `key`, or keep the signal for the next one that does.

        Durable on return. Only one signal per key is kept: a newer one replaces it.

        Args:
            key: 1 to 1024 UTF-8 bytes.
            payload: The payload for the woken step, at most `MAX_SIGNAL_SIZE` bytes.
        """
        return await self._signals.signal(key, payload)

    async def clear_signal(self, key: str) -> bool:
        """Remove the signal that is kept for `key`; False if there is none."""
        return await self._signals.clear(key)
