"""The handler of step jobs: runs a step, and turns its outcome into the settlement of its job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from taquba import (
    MAX_KV_VALUE_SIZE,
    CancelRequested,
    Clock,
    FailWith,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    Queue,
    RetryAfter,
    SettlementEffects,
    Snooze,
)
from taquba_workflow._effects import StepEffects
from taquba_workflow._errors import StepError
from taquba_workflow._outcomes import Cancel, Continue, Fail, OnSignal, StepOutcome, Succeed
from taquba_workflow._records import LiveRun, RunState, decode_run, run_key
from taquba_workflow._signals import SignalBoard
from taquba_workflow._steps import Runner, Step, StepJob, read_step
from taquba_workflow._termination import Notifier
from taquba_workflow._transitions import Ending, SignalRows, end_run, next_step

MAX_RESULT_SIZE: Final = MAX_KV_VALUE_SIZE - 16 * 1024
"""Largest result of a run, in bytes."""

CANCELLED: Final = Ending(RunState.cancelled, reason="cancelled on request")


class StepHandler:
    """Runs steps for a worker loop.

    Args:
        queue: The open queue.
        runner: The code of the workflow.
        clock: Where time comes from.
        signals: The signals that steps wait for.
        notifier: Who is told of ends.
        cancelling: Runs that are being cancelled in this moment. A request is decided a moment
            before the job's token fires, and no settlement may be decided in between without it.
    """

    def __init__(
        self,
        queue: Queue,
        runner: Runner,
        clock: Clock,
        signals: SignalBoard,
        notifier: Notifier,
        cancelling: Collection[str],
    ) -> None:
        self._queue = queue
        self._runner = runner
        self._clock = clock
        self._signals = signals
        self._notifier = notifier
        self._cancelling = cancelling
        self._holds: set[Callable[[], None]] = set()
        """What gives back the locks of steps that are being settled."""

    def let_go(self) -> None:
        """Give back all locks; for when no step runs any more."""
        for release in list(self._holds):
            release()

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        """Handler of the workflow queue."""
        step = read_step(job)
        if job.last_error is not None:
            await self._check_current(step)
        if step.waited_for is not None:
            await self._signals.look(step.waited_for)
        staged = StepEffects()
        verdict = await self._run(job, step, lease, staged)
        return await self._settlement(step, verdict, staged.settlement(), lease)

    async def _check_current(self, step: StepJob) -> None:
        """Refuse a dead step that somebody requeued after its run had ended."""
        row = await self._queue.kv_get(run_key(step.run_id))
        run = None if row is None else decode_run(row)
        if not isinstance(run, LiveRun) or run.job_id != step.job_id:
            raise PermanentFailure(
                f"run {step.run_id!r} has ended; submit it again under another id"
            )

    async def _run(
        self, job: JobRecord, step: StepJob, lease: LeaseHandle, staged: StepEffects
    ) -> Continue | Ending:
        """Run the step; an exception that leaves this is tried again."""
        if self._is_cancelled(step, lease):
            return CANCELLED
        if step.attempts > step.max_attempts:
            # Nobody was there to end the run when the last attempt was lost with its worker.
            return _broken(f"no attempt of {step.max_attempts} came to an end: {job.last_error}")
        try:
            outcome = await self._runner.run_step(_view(step, lease, staged))
        except Exception as error:
            if isinstance(error, CancelRequested) or self._is_cancelled(step, lease):
                return CANCELLED
            if _is_final(error, step):
                return _broken(_describe(error))
            raise
        return _verdict(outcome)

    async def _settlement(
        self,
        step: StepJob,
        verdict: Continue | Ending,
        staged: SettlementEffects,
        lease: LeaseHandle,
    ) -> SettlementEffects:
        rows: SignalRows = {}
        keys = _signals_of(step, verdict)
        if keys:
            # Held until the settlement is applied, or will never be.
            await self._hold_until_settled(keys, lease)
            rows = await self._signals.rows(keys)
            if isinstance(verdict, Continue) and isinstance(verdict.when, OnSignal):
                verdict = await self._wait(step, verdict, verdict.when.key)
        # From here until the job is being settled nothing is awaited: a request to cancel comes
        # either before, and is seen here, or after, and finds the next step.
        if self._is_cancelled(step, lease):
            verdict = CANCELLED
        if isinstance(verdict, Continue):
            next_id = self._queue.next_job_id()
            return next_step(step, verdict, staged, rows, next_id, self._clock.now())
        if not verdict.keeps_staged:
            staged = SettlementEffects()
        now_ms = self._clock.time_ms()
        effects = end_run(step, verdict, staged, rows, self._notifier.announce, now_ms)
        if verdict.dead_letter:
            raise FailWith(PermanentFailure(verdict.reason or ""), effects)
        return effects

    async def _hold_until_settled(self, keys: Collection[str], lease: LeaseHandle) -> None:
        release = await self._signals.hold(keys)

        def let_go() -> None:
            self._holds.discard(let_go)
            release()

        self._holds.add(let_go)
        lease.on_end(let_go)

    async def _wait(self, step: StepJob, outcome: Continue, key: str) -> Continue | Ending:
        """Refuse to wait for a signal that another run waits for."""
        waiter = await self._signals.waiter(key)
        if waiter is None:
            return outcome
        return _broken(
            f"run {waiter.run_id!r} waits for the signal {key!r} already: "
            "use a key of its own for each run"
        )

    def _is_cancelled(self, step: StepJob, lease: LeaseHandle) -> bool:
        return lease.cancel_token.cancelled or step.run_id in self._cancelling


def _view(step: StepJob, lease: LeaseHandle, staged: StepEffects) -> Step:
    return Step(
        run_id=step.run_id,
        step_number=step.step_number,
        payload=step.payload,
        headers=step.headers,
        job_id=step.job_id,
        attempts=step.attempts,
        cancel_token=lease.cancel_token,
        lease=lease,
        effects=staged,
        signal=step.signal,
    )


def _verdict(outcome: StepOutcome) -> Continue | Ending:
    match outcome:
        case Continue():
            return outcome
        case Succeed(result) if len(result) > MAX_RESULT_SIZE:
            return _broken(
                f"the result has {len(result)} bytes; at most {MAX_RESULT_SIZE} fit: "
                "store the content and return its name"
            )
        case Succeed(result):
            return Ending(RunState.succeeded, result=result)
        case Fail(reason):
            return Ending(RunState.failed, reason=reason)
        case Cancel(reason):
            return Ending(RunState.cancelled, reason=reason)
        case _:
            return _broken(
                "run_step must return Continue, Succeed, Fail or Cancel, "
                f"not {type(outcome).__name__}"
            )


def _is_final(error: Exception, step: StepJob) -> bool:
    """Whether an error ends the run."""
    if isinstance(error, (StepError, PermanentFailure)) and error.permanent:
        return True
    # Putting a step off spends no attempt.
    return step.attempts >= step.max_attempts and not isinstance(error, Snooze)


def _broken(reason: str) -> Ending:
    return Ending(RunState.failed, reason=reason, dead_letter=True)


def _describe(error: Exception) -> str:
    """An error as one line of text: what the step said, or type and message."""
    if isinstance(error, (PermanentFailure, RetryAfter)):
        return error.reason
    message = str(error)
    if isinstance(error, StepError) and message:
        return message
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def _signals_of(step: StepJob, verdict: Continue | Ending) -> set[str]:
    """Signals whose rows the settlement may have to change."""
    keys: set[str] = set()
    if step.waited_for is not None:
        keys.add(step.waited_for)
    if isinstance(verdict, Continue) and isinstance(verdict.when, OnSignal):
        keys.add(verdict.when.key)
    return keys
