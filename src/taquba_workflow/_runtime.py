"""`WorkflowRuntime`: submits, steers and runs the runs of one workflow queue."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import anyio

from taquba import (
    CancelOutcome,
    Clock,
    Duration,
    JobRecord,
    Queue,
    SettlementEffects,
    WorkerSpec,
    run_workers,
)
from taquba.extending import RunsInBackground, seen_through
from taquba_workflow import _values
from taquba_workflow._errors import InputMismatch
from taquba_workflow._handler import CANCELLED, StepHandler
from taquba_workflow._records import LiveRun, RunSpec, RunState, RunStatus, SubmitOutcome
from taquba_workflow._retention import Retention
from taquba_workflow._signals import SignalBoard, SignalOutcome
from taquba_workflow._status import read_run, read_status, read_step_job
from taquba_workflow._steps import Runner, StepJob, read_step
from taquba_workflow._termination import Notifier, TerminalHook, termination_queue
from taquba_workflow._transitions import Ending, SignalRows, end_run, first_step
from taquba_workflow._turns import turns_of


class WorkflowRuntime(RunsInBackground):
    """Runs of a workflow: durable, one atomic commit per step.

    Use it with ``async with``, or await `run`; submitting, looking, signalling and cancelling
    work without either, and need only the open queue.

        async with Queue.open("./data") as queue, WorkflowRuntime(queue, MyRunner()) as runtime:
            await runtime.submit(RunSpec(b"input", run_id="order-17"))

    Args:
        queue: An open queue; the runtime belongs to its event loop.
        runner: The code: an object with ``async run_step(step)``.
        hook: Told of every end of a run.
        queue_name: Where the steps are queued; one runtime per name. Configure retries, backoff
            and leases of steps by this name, and those of the hook by ``{queue_name}.termination``.
        max_concurrent_steps: Steps, and calls of the hook, that run at the same time.
        poll_interval: As for `taquba.run_worker`, seconds.
        memo_retention: How long a run's outcome, and what its steps remember, stay after its
            end, seconds or `timedelta`; None keeps them. Once forgotten, an id is free again.
        step_output_replay: Make what a step came to durable before it is settled, so that a step
            that has returned is not run again after a crash. Costs a commit per step.
        clock: Where time comes from; the queue's clock by default.
    """

    def __init__(
        self,
        queue: Queue,
        runner: Runner,
        *,
        hook: TerminalHook | None = None,
        queue_name: str = "workflow",
        max_concurrent_steps: int = 100,
        poll_interval: Duration = 1,
        memo_retention: Duration | None = None,
        step_output_replay: bool = False,
        clock: Clock | None = None,
    ) -> None:
        _values.instance(queue, Queue, "queue")
        _values.method(runner, "run_step", "runner")
        if hook is not None:
            _values.method(hook, "on_termination", "hook")
        _values.at_least_one(max_concurrent_steps, "max_concurrent_steps")
        self._queue = queue
        self._queue_name = queue_name
        self._default_max_attempts = queue.config(queue_name).max_attempts
        # Refuses now a name that leaves no room for the other queue's, which ends of runs need.
        queue.config(termination_queue(queue_name))
        self._has_hook = hook is not None
        self._max_concurrent_steps = max_concurrent_steps
        self._poll_interval = poll_interval
        self._clock = queue.clock if clock is None else clock
        self._signals = SignalBoard(queue, queue_name)
        self._notifier = Notifier(queue_name, hook)
        self._turns = turns_of(queue, queue_name)
        self._retention: Retention | None = None
        if memo_retention is not None:
            keep = _values.duration(memo_retention, "memo_retention")
            self._retention = Retention(queue, queue_name, self._clock, keep)
        self._handler = StepHandler(
            queue,
            queue_name,
            runner,
            clock=self._clock,
            signals=self._signals,
            conclude=self._conclude,
            replay=step_output_replay,
        )

    # -- run --------------------------------------------------------------------------------

    async def run(self, shutdown: anyio.Event | asyncio.Event | None = None) -> None:
        """Run steps, and the hook, until `shutdown` is set; running steps are waited for.

        When it is cancelled, running steps are cancelled too and go back without spending their
        attempt. Raises what ends a worker loop: the store is gone, fenced or closed.
        """
        workers = [
            WorkerSpec(
                self._queue_name,
                self._handler.handle,
                concurrency=self._max_concurrent_steps,
                poll_interval=self._poll_interval,
            )
        ]
        if self._has_hook:
            workers.append(
                WorkerSpec(
                    termination_queue(self._queue_name),
                    self._notifier.tell,
                    concurrency=self._max_concurrent_steps,
                    poll_interval=self._poll_interval,
                )
            )
        sweeping = None
        if self._retention is not None:
            sweeping = asyncio.create_task(self._retention.run(), name="taquba-workflow-retention")
        try:
            await run_workers(self._queue, *workers, shutdown=shutdown, handle_signals=False)
        finally:
            if sweeping is not None:
                await _stop(sweeping)
            # Of a store that failed, leases never end; nothing is decided any more.
            self._handler.let_go()

    # -- runs -------------------------------------------------------------------------------

    async def submit(self, spec: RunSpec) -> SubmitOutcome:
        """Start a run, unless it was submitted before; durable on return.

        The same id and input may be submitted any number of times, also after a restart and after
        the run has ended, as long as retention keeps its outcome.

        Raises:
            InputMismatch: The id was submitted with another input; nothing was written.
        """
        _values.instance(spec, RunSpec, "spec")
        if spec.run_id is None:
            run_id = self._queue.next_job_id()
            await self._start(spec, run_id)
            return SubmitOutcome(run_id, True)
        return await seen_through(self._submit(spec, spec.run_id))

    async def _submit(self, spec: RunSpec, run_id: str) -> SubmitOutcome:
        with await self._turns.submissions.acquire([run_id]):
            run = await read_run(self._queue, self._queue_name, run_id)
            if run is None:
                await self._start(spec, run_id)
            elif run.input_hash != spec.input_hash():
                raise InputMismatch(run_id)
            return SubmitOutcome(run_id, run is None)

    async def _start(self, spec: RunSpec, run_id: str) -> None:
        request = first_step(
            self._queue_name,
            spec,
            run_id,
            self._queue.next_job_id(),
            self._default_max_attempts if spec.max_attempts is None else spec.max_attempts,
            self._clock.time_ms(),
        )
        await self._queue.enqueue_batch([request])

    async def status(self, run_id: str) -> RunStatus | None:
        """Where a run is; None for one that was never submitted, or is forgotten."""
        _values.run_id(run_id)
        return await read_status(self._queue, self._queue_name, run_id)

    async def wait_for_completion(self, run_id: str, timeout: Duration) -> RunStatus | None:
        """Wait until a run has ended; does not poll.

        Args:
            run_id: The run.
            timeout: Seconds, on the runtime's clock.

        Returns:
            Its status then, or when time ran out; None for a run that does not exist.
        """
        _values.run_id(run_id)
        remaining = _values.duration(timeout, "timeout")
        deadline = self._clock.now() + remaining
        while remaining > timedelta():
            run = await read_run(self._queue, self._queue_name, run_id)
            if not isinstance(run, LiveRun):
                break
            await self._queue.wait_for_completion(run.job_id, remaining)
            remaining = deadline - self._clock.now()
        return await read_status(self._queue, self._queue_name, run_id)

    async def cancel(self, run_id: str) -> bool:
        """End a run as cancelled; durable on return.

        A step that waits is removed at once. A running one is asked to stop, by its cancel token,
        and the run ends when it settles, whatever its outcome; what it staged is discarded.

        Returns:
            False when there is no such run, or it has ended.
        """
        _values.run_id(run_id)
        return await seen_through(self._cancel(run_id))

    async def _cancel(self, run_id: str) -> bool:
        cancelling = self._turns.cancelling
        cancelling[run_id] += 1
        try:
            if not isinstance(await read_run(self._queue, self._queue_name, run_id), LiveRun):
                return False
            while True:
                found = await read_step_job(self._queue, self._queue_name, run_id)
                if not isinstance(found, JobRecord):
                    # A step that settled meanwhile may have ended the run on behalf of this call.
                    return found is not None and found.state is RunState.cancelled
                if await self._cancel_job(found):
                    return True
        finally:
            cancelling[run_id] -= 1
            if not cancelling[run_id]:
                del cancelling[run_id]

    async def _cancel_job(self, job: JobRecord) -> bool:
        """Cancel a run by its step's job; False when the run has moved on."""
        step = read_step(job)
        keys = [] if step.waited_for is None else [step.waited_for]
        with await self._signals.hold(keys):
            rows = await self._signals.rows(keys)
            effects = self._conclude(step, CANCELLED, SettlementEffects(), rows)
            return await self._queue.cancel(job.id, effects) is not CancelOutcome.not_found

    def _conclude(
        self, step: StepJob, ending: Ending, staged: SettlementEffects, signals: SignalRows
    ) -> SettlementEffects:
        now_ms = self._clock.time_ms()
        if self._retention is not None:
            self._retention.ended(now_ms)
        return end_run(step, ending, staged, signals, self._notifier.announce, now_ms)

    # -- signals ----------------------------------------------------------------------------

    async def signal(self, key: str, payload: bytes = b"") -> SignalOutcome:
        """Wake the run that waits for `key`, or keep the signal for the next one that does.

        Durable on return. One signal per key is kept: a newer one takes its place.

        Args:
            key: 1 to 1024 UTF-8 bytes.
            payload: What the woken step gets, at most `MAX_SIGNAL_SIZE` bytes.
        """
        return await self._signals.signal(key, payload)

    async def clear_signal(self, key: str) -> bool:
        """Forget the signal that is kept for `key`; False when there is none."""
        return await self._signals.clear(key)


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel a task of ours and let it end; of a store that failed, the workers have told."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
