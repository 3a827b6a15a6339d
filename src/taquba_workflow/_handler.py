"""The handler of step jobs: runs a step, and turns its outcome into the settlement of its job."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import replace
from typing import Final

from taquba import (
    CancelRequested,
    Clock,
    FailWith,
    JobRecord,
    LeaseHandle,
    ObjectDamaged,
    PermanentFailure,
    Queue,
    RetryAfter,
    SettlementEffects,
    Snooze,
)
from taquba.extending import UNREADABLE, awaited, describe, passes_through
from taquba.extending.parking import parked
from taquba_workflow import _headers
from taquba_workflow._children import any_ended, waiting_lock, wake_parent
from taquba_workflow._effects import StepEffects
from taquba_workflow._errors import StepError
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import Memo, Values
from taquba_workflow._outcomes import Cancel, Continue, Fail, OnSignal, Succeed, Suspend
from taquba_workflow._records import LiveRun, RunState, decode_run
from taquba_workflow._replay import Output, decode_output, encode_output, replay_key
from taquba_workflow._signals import SignalBoard
from taquba_workflow._steps import Runner, Step, StepJob, read_step
from taquba_workflow._transitions import Ending, SignalRows, next_step, next_turn
from taquba_workflow._turns import turns_of

CANCELLED: Final = Ending(RunState.cancelled, reason="cancelled on request")

Conclude = Callable[[StepJob, Ending, SettlementEffects, SignalRows], SettlementEffects]
"""What has to land with the settlement of a step that ends its run."""

RunTurn = Callable[[StepJob, str | None, LeaseHandle], Awaitable[Suspend | Succeed | Fail | Cancel]]
"""Runs a turn of a function, given the error of its job's attempt before."""

Verdict = Output | Suspend | Ending
"""What a step, or a turn of a function, comes to."""

_log: Final = logging.getLogger(__name__)

_NOTHING: Final = SettlementEffects()
_SAY_ALL: Final = (PermanentFailure, RetryAfter, StepError)
"""Errors whose message says it all."""


class StepHandler:
    """Runs steps for a worker loop.

    Args:
        queue: The open queue.
        queue_name: The workflow queue.
        runner: The code of the workflow's steps, if it has any.
        run_turn: Runs the turns of functions.
        clock: Where time comes from.
        signals: The signals that steps wait for.
        conclude: Ends a run.
        ended: Told that the end of a run has landed.
        replay: Whether a step's output is made durable before it is settled.
    """

    def __init__(
        self,
        queue: Queue,
        queue_name: str,
        runner: Runner | None,
        run_turn: RunTurn,
        *,
        clock: Clock,
        signals: SignalBoard,
        conclude: Conclude,
        ended: Callable[[], None],
        replay: bool,
    ) -> None:
        self._queue = queue
        self._queue_name = queue_name
        self._keys = keys_of(queue_name)
        self._runner = runner
        self._run_turn = run_turn
        self._clock = clock
        self._signals = signals
        self._conclude = conclude
        self._ended = ended
        self._replay = replay
        self._values = Values(queue, queue_name)
        self._cancelling = turns_of(queue, queue_name).cancelling
        self._holds: set[Callable[[], None]] = set()
        """What gives back the locks of steps that are being settled."""

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        """Handler of the workflow queue."""
        if _headers.ENDED_CHILD in job.headers:
            await wake_parent(self._queue, self._queue_name, job.headers[_headers.RUN_ID])
            return _NOTHING
        step = read_step(job)
        if job.last_error is not None:
            await self._check_current(step)
        if step.waited_for:
            await self._signals.look(step.waited_for)
        if step.function is None:
            verdict: Verdict = await self._output(job, step, lease)
        else:
            verdict = await self._turn(job, step, lease)
        return await self._settlement(step, verdict, lease)

    def let_go(self) -> None:
        """Give back all locks; for when no step runs any more."""
        for release in list(self._holds):
            release()

    # -- the step ---------------------------------------------------------------------------

    async def _check_current(self, step: StepJob) -> None:
        """Refuse a dead step that somebody requeued after its run had ended."""
        row = await self._queue.kv_get(self._keys.run(step.run_id))
        try:
            run = None if row is None else decode_run(row)
        except UNREADABLE as error:
            # The settlement of this step writes it anew.
            _log.warning("the row of run %r cannot be read: %s", step.run_id, describe(error))
            return
        if not isinstance(run, LiveRun) or run.job_id != step.job_id:
            raise PermanentFailure(
                f"run {step.run_id!r} has ended; submit it again under another id"
            )

    async def _output(self, job: JobRecord, step: StepJob, lease: LeaseHandle) -> Output | Ending:
        """What the step comes to, or what ends its run without an outcome."""
        if self._is_cancelled(step, lease):
            return CANCELLED
        if self._replay and job.last_error is not None:
            kept = await self._kept_output(step)
            if kept is not None:
                return kept
        if step.attempts > step.max_attempts:
            # Nobody was there to end the run when the last attempt was lost with its worker.
            return _broken(f"no attempt of {step.max_attempts} came to an end: {job.last_error}")
        try:
            output = await self._run(step, lease)
        except BaseException as error:
            if passes_through(error):
                raise
            # A lease refuses to go on a moment before the token fires.
            asked = isinstance(error, CancelRequested) and error.job_id == step.job_id
            if asked or self._is_cancelled(step, lease):
                return CANCELLED
            if _is_final(error, step):
                return _broken(describe(error, bare=_SAY_ALL))
            raise
        if self._replay and isinstance(output, Output):
            await self._values.put(step.run_id, replay_key(step), encode_output(output))
        return output

    async def _kept_output(self, step: StepJob) -> Output | None:
        """What an earlier attempt came to, unless settling with it has failed too often."""
        try:
            kept = await self._values.get(replay_key(step))
        except ObjectDamaged as error:
            _log.warning("step %d of run %r runs again: %s", step.step_number, step.run_id, error)
            return None
        output = None if kept is None else decode_output(kept)
        if output is None:
            return None
        # The last attempt's output gets its one replay: its process may have died with it.
        tried_once = step.attempts <= output.attempt + 1
        return output if tried_once or step.attempts <= step.max_attempts else None

    async def _run(self, step: StepJob, lease: LeaseHandle) -> Output | Ending:
        if self._runner is None:
            raise parked("this program has no runner, only functions")
        effects = StepEffects()
        memos = f"{self._keys.memos(step.run_id)}{step.step_number}/"
        seen = Step(
            run_id=step.run_id,
            step_number=step.step_number,
            payload=step.payload,
            headers=step.headers,
            job_id=step.job_id,
            attempts=step.attempts,
            cancel_token=lease.cancel_token,
            lease=lease,
            memo=Memo(self._values, memos, step.run_id),
            effects=effects,
            signal=step.signal,
        )
        try:
            # Perhaps a plain decorator's work, whatever the annotation says.
            outcome = await awaited(self._runner.run_step(seen))
        finally:
            effects.seal(f"step {step.step_number} of run {step.run_id!r}")
        if not isinstance(outcome, (Continue, Succeed, Fail, Cancel)):
            return _broken(
                "run_step must return Continue, Succeed, Fail or Cancel, "
                f"not {type(outcome).__name__}"
            )
        return Output(outcome, effects.settlement(), self._clock.now(), step.attempts)

    async def _turn(self, job: JobRecord, step: StepJob, lease: LeaseHandle) -> Ending | Suspend:
        outcome = await self._run_turn(step, job.last_error, lease)
        return outcome if isinstance(outcome, Suspend) else await self._end(step, outcome)

    # -- the settlement ---------------------------------------------------------------------

    async def _settlement(
        self, step: StepJob, output: Verdict, lease: LeaseHandle
    ) -> SettlementEffects:
        staged, at = _NOTHING, self._clock.now()
        verdict: Continue | Suspend | Ending
        if isinstance(output, Output):
            outcome, staged, at, _ = output
            verdict = outcome if isinstance(outcome, Continue) else await self._end(step, outcome)
        else:
            verdict = output
        rows: SignalRows = {}
        taken: list[str] = []
        locks = _locks_of(step, verdict)
        if locks:
            await self._hold_until_settled(locks, lease)
            rows = await self._signals.rows(_signals_of(step, verdict))
            if isinstance(verdict, Continue) and isinstance(verdict.when, OnSignal):
                verdict = await self._wait(verdict, verdict.when.key)
            elif isinstance(verdict, Suspend):
                taken = [key for key in verdict.signals if await self._signals.waiter(key)]
                if await any_ended(self._queue, self._queue_name, verdict.children):
                    verdict = replace(verdict, at_once=True)
        # From here until the job is being settled nothing is awaited: a request to cancel comes
        # either before, and is seen here, or after, and finds the next step.
        if self._is_cancelled(step, lease):
            verdict = CANCELLED if step.function is None else _cancelled_turn(step, verdict)
        if isinstance(verdict, Suspend):
            return next_turn(step, verdict, rows, taken, self._queue.next_job_id(), at)
        if not isinstance(verdict, Continue) and not verdict.keeps_staged:
            staged = _NOTHING
        if self._replay and step.function is None:
            staged = _and_delete(staged, replay_key(step))
        if isinstance(verdict, Continue):
            return next_step(step, verdict, staged, rows, self._queue.next_job_id(), at)
        effects = self._conclude(step, verdict, staged, rows)
        lease.on_end(self._ended)
        if verdict.dead_letter:
            raise FailWith(PermanentFailure(verdict.reason or ""), effects)
        return effects

    async def _end(self, step: StepJob, outcome: Succeed | Fail | Cancel) -> Ending:
        match outcome:
            case Succeed(result):
                packed = await self._values.pack(step.run_id, result)
                return Ending(RunState.succeeded, result, packed_result=packed)
            case Fail(reason):
                return Ending(RunState.failed, reason=reason)
            case Cancel(reason):
                return Ending(RunState.cancelled, reason=reason)

    async def _hold_until_settled(self, names: Collection[Hashable], lease: LeaseHandle) -> None:
        """Keep others from deciding on waits until this settlement is applied or refused."""
        held = await self._signals.hold(names)

        def let_go() -> None:
            self._holds.discard(let_go)
            held.release()

        self._holds.add(let_go)
        lease.on_end(let_go)

    async def _wait(self, outcome: Continue, key: str) -> Continue | Ending:
        """Refuse to wait for a signal that another run waits for."""
        waiter = await self._signals.waiter(key)
        if waiter is None:
            return outcome
        return _broken(
            f"run {waiter.run_id!r} waits for the signal {key!r} already: "
            "use a key of its own for each run"
        )

    def _is_cancelled(self, step: StepJob, lease: LeaseHandle) -> bool:
        # A request is decided a moment before the job's token fires, and no settlement may be
        # decided in between without it.
        return lease.cancel_token.cancelled or step.run_id in self._cancelling


def _is_final(error: BaseException, step: StepJob) -> bool:
    """Whether an error ends the run."""
    if isinstance(error, (StepError, PermanentFailure)) and error.permanent:
        return True
    # Putting a step off spends no attempt.
    return step.attempts >= step.max_attempts and not isinstance(error, Snooze)


def _broken(reason: str) -> Ending:
    return Ending(RunState.failed, reason=reason, dead_letter=True)


def _cancelled_turn(step: StepJob, verdict: Continue | Suspend | Ending) -> Suspend | Ending:
    """What becomes of a function's run that was asked to cancel when its turn is settled."""
    assert step.function is not None
    assert not isinstance(verdict, Continue)
    if isinstance(verdict, Suspend):
        if verdict.cancelling or step.function.cancelling:
            return verdict
        # It waits for nothing any more, so no signal is taken for it.
        return replace(verdict, at_once=True, cancelling=True, signals=(), children=())
    if verdict.state is RunState.succeeded:
        # What it did has to be compensated, which takes another turn.
        return Suspend(at_once=True, cancelling=True)
    return verdict if verdict.state is RunState.cancelled else CANCELLED


def _signals_of(step: StepJob, verdict: Continue | Suspend | Ending) -> set[str]:
    """Signals whose rows the settlement may have to change."""
    keys = set(step.waited_for)
    if isinstance(verdict, Continue) and isinstance(verdict.when, OnSignal):
        keys.add(verdict.when.key)
    elif isinstance(verdict, Suspend):
        keys.update(verdict.signals)
    return keys


def _locks_of(step: StepJob, verdict: Continue | Suspend | Ending) -> set[Hashable]:
    """What nobody else may decide on meanwhile."""
    names: set[Hashable] = {*_signals_of(step, verdict)}
    if isinstance(verdict, Suspend) and verdict.children:
        names.add(waiting_lock(step.run_id))
    return names


def _and_delete(staged: SettlementEffects, key: str) -> SettlementEffects:
    return replace(staged, kv_deletes=[*staged.kv_deletes, key])
