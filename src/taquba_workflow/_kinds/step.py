"""A step: runs the runner's code, and decides how the run continues."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from taquba import (
    CancelRequested,
    KvKey,
    LeaseHandle,
    ObjectDamaged,
    PermanentFailure,
    RetryAfter,
    SettlementEffects,
    Snooze,
)
from taquba.extending import (
    awaited,
    describe,
    legible,
    passes_through,
)
from taquba.extending.parking import parked
from taquba_workflow._cancelling import looks
from taquba_workflow._effects import StepEffects
from taquba_workflow._errors import StepError
from taquba_workflow._kinds.settling import CANCELLED, Delivery, RunKind, Settling, broken
from taquba_workflow._memo import Memo
from taquba_workflow._outcomes import Cancel, Continue, Fail, OnSignal, Succeed
from taquba_workflow._replay import Output, decode_output, encode_output, replay_key
from taquba_workflow._steps import Runner, Step, StepJob
from taquba_workflow._transitions import Basis, Ending, SignalRows, next_step

_log: Final = logging.getLogger(__name__)

_NOTHING: Final = SettlementEffects()
_SAY_ALL: Final = (PermanentFailure, RetryAfter, StepError)
"""Errors whose message says it all."""


class Raised(NamedTuple):
    """The runner's code has failed."""

    error: BaseException


class StepVerdict(NamedTuple):
    """What a step came to."""

    comes: Continue | Ending
    """What comes after it."""
    staged: SettlementEffects
    at: datetime
    """When it came to that: delays count from here."""


class StepKind(RunKind[StepVerdict | Raised, StepVerdict]):
    """The handler of steps.

    Args:
        settling: What is needed to settle them.
        runner: The code of the workflow's steps, if it has any.
        replay: Whether a step's output is made durable before it is settled.
    """

    def __init__(self, settling: Settling, runner: Runner | None, *, replay: bool) -> None:
        super().__init__(settling)
        self._clock = settling.clock
        self._values = settling.values
        self._runner = runner
        self._replay = replay

    # -- around the runner's code -----------------------------------------------------------

    async def perform(self, work: Delivery, lease: LeaseHandle) -> StepVerdict | Raised:
        """Run the step, or take what an earlier attempt at it came to."""
        step = work.step
        output = await self._output(work, lease)
        if isinstance(output, Raised):
            return output
        if isinstance(output, Ending):
            return self._without_outcome(output)
        outcome, staged, at, _ = output
        if isinstance(outcome, Continue):
            return StepVerdict(outcome, staged, at)
        return StepVerdict(await self._settling.ending(step, outcome), staged, at)

    async def _output(self, work: Delivery, lease: LeaseHandle) -> Output | Ending | Raised:
        """What the step comes to, or what ends its run without an outcome."""
        step = work.step
        if lease.cancel_token.cancelled:
            return CANCELLED
        if self._replay and work.last_error is not None:
            kept = await self._kept_output(step)
            if kept is not None:
                return kept
        if step.attempts > step.max_attempts:
            # Nobody was there to end the run when the last attempt was lost with its worker.
            return broken(f"no attempt out of {step.max_attempts} ended: {work.last_error}")
        try:
            output = await self._run(step, lease)
        except BaseException as raised:
            error = legible(raised)
            if passes_through(error):
                raise
            return Raised(error)
        if self._replay and isinstance(output, Output):
            await self._values.put(
                step.run_id, step.submitted_at, replay_key(step), encode_output(output)
            )
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
        memos = f"{self._settling.keys.memos(step.run_id)}{step.step_number}/"
        seen = Step(
            run_id=step.run_id,
            step_number=step.step_number,
            payload=step.payload,
            headers=step.headers,
            job_id=step.job_id,
            attempts=step.attempts,
            cancel_token=lease.cancel_token,
            lease=lease,
            memo=Memo(self._values, memos, step.run_id, step.submitted_at),
            effects=effects,
            signal=step.signal,
        )
        try:
            # Perhaps a plain decorator's work, whatever the annotation says.
            outcome = await awaited(self._runner.run_step(seen))
        finally:
            effects.seal(f"step {step.step_number} of run {step.run_id!r}")
        if not isinstance(outcome, (Continue, Succeed, Fail, Cancel)):
            return broken(
                "run_step must return Continue, Succeed, Fail or Cancel, "
                f"not {type(outcome).__name__}"
            )
        return Output(outcome, effects.settlement(), self._clock.now(), step.attempts)

    def _without_outcome(self, ending: Ending) -> StepVerdict:
        return StepVerdict(ending, _NOTHING, self._clock.now())

    # -- at the settlement ------------------------------------------------------------------

    def judge(
        self, work: Delivery, verdict: StepVerdict | Raised, lease: LeaseHandle
    ) -> StepVerdict:
        """How the run goes on; raises the error after which the step is tried again."""
        cancelled = lease.cancel_token.cancelled
        if isinstance(verdict, StepVerdict):
            return self._without_outcome(CANCELLED) if cancelled else verdict
        step, error = work.step, verdict.error
        # A lease refuses to be extended a moment before its token fires.
        if cancelled or (isinstance(error, CancelRequested) and error.job_id == step.job_id):
            return self._without_outcome(CANCELLED)
        if _is_final(error, step):
            return self._without_outcome(broken(describe(error, bare=_SAY_ALL)))
        # A request that arrives now is kept with the job, and seen by its next attempt.
        raise error

    async def conclude(
        self, work: Delivery, decision: StepVerdict, lease: LeaseHandle
    ) -> SettlementEffects:
        """The job of the next step, or the end of the run, and what the step has staged."""
        settling, step = self._settling, work.step
        comes, staged, at = decision
        expected: dict[KvKey, bytes | None] = {}
        if looks(step) and await settling.is_to_be_cancelled(step, expected):
            comes = CANCELLED
        signals = _signals_of(step, comes)
        rows: SignalRows = await settling.signals.rows(signals, expected) if signals else {}
        basis = Basis(rows, expected, unless_cancelled=comes is not CANCELLED)
        if isinstance(comes, Continue) and isinstance(comes.when, OnSignal):
            comes = await self._wait(comes, comes.when.key, rows)
        if isinstance(comes, Ending) and not comes.keeps_staged:
            staged = _NOTHING
        if self._replay:
            staged = replace(staged, kv_deletes=[*staged.kv_deletes, replay_key(step)])
        if isinstance(comes, Ending):
            return settling.end(step, comes, staged, basis, lease)
        return next_step(step, comes, staged, basis, settling.store.next_job_id(), at)

    async def _wait(self, outcome: Continue, key: str, rows: SignalRows) -> Continue | Ending:
        """Refuse to wait for a signal that another run waits for."""
        waiter = await self._settling.signals.waiter(rows[key])
        if waiter is None:
            return outcome
        return broken(
            f"run {waiter.run_id!r} already waits for the signal {key!r}: "
            "use a separate key for each run"
        )


def _is_final(error: BaseException, step: StepJob) -> bool:
    """Whether an error ends the run."""
    if isinstance(error, (StepError, PermanentFailure)) and error.permanent:
        return True
    # Putting a step off spends no attempt.
    return step.attempts >= step.max_attempts and not isinstance(error, Snooze)


def _signals_of(step: StepJob, comes: Continue | Ending) -> Collection[str]:
    """Signals whose rows the settlement may need to change."""
    if isinstance(comes, Continue) and isinstance(comes.when, OnSignal):
        return {*step.waited_for, comes.when.key}
    return step.waited_for
