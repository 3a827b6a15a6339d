"""A turn of a function: runs it as far as it gets, and writes down what it waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import replace
from typing import Final

from taquba import LeaseHandle, SettlementEffects
from taquba_workflow._children import any_ended, waiting_lock
from taquba_workflow._kinds.settling import CANCELLED, Delivery, RunKind, Settling
from taquba_workflow._outcomes import Cancel, Fail, Succeed, Suspend
from taquba_workflow._records import RunState
from taquba_workflow._steps import StepJob
from taquba_workflow._transitions import Ending, SignalRows, next_turn

RunTurn = Callable[[StepJob, str | None, LeaseHandle], Awaitable[Suspend | Succeed | Fail | Cancel]]
"""Runs a turn of a function, given the error of its job's attempt before."""

_NOTHING: Final = SettlementEffects()


class TurnKind(RunKind[Suspend | Ending, Suspend | Ending]):
    """The handler of turns.

    Args:
        settling: What is needed to settle them.
        run_turn: Runs one.
    """

    def __init__(self, settling: Settling, run_turn: RunTurn) -> None:
        super().__init__(settling)
        self._run_turn = run_turn

    async def perform(self, work: Delivery, lease: LeaseHandle) -> Suspend | Ending:
        """Run the function as far as it gets."""
        outcome = await self._run_turn(work.step, work.last_error, lease)
        if isinstance(outcome, Suspend):
            return outcome
        return await self._settling.ending(work.step, outcome)

    def judge(
        self, work: Delivery, verdict: Suspend | Ending, lease: LeaseHandle
    ) -> Suspend | Ending:
        """What it came to: errors of the function are outcomes already."""
        return verdict

    def locks(self, work: Delivery, decision: Suspend | Ending) -> Collection[Hashable]:
        """The signals that it waited for, and what it waits for from now on."""
        step = work.step
        names: set[Hashable] = {*_signals_of(step, decision)}
        if isinstance(decision, Suspend) and decision.children:
            names.add(waiting_lock(step.run_id))
        return names

    async def conclude(
        self, work: Delivery, decision: Suspend | Ending, lease: LeaseHandle
    ) -> SettlementEffects:
        """The job of the next turn with what its waits need, or the end of the run."""
        settling, step = self._settling, work.step
        rows: SignalRows = await settling.signals.rows(_signals_of(step, decision))
        taken: list[str] = []
        if isinstance(decision, Suspend):
            taken = [key for key in decision.signals if await settling.signals.waiter(key)]
            if await any_ended(settling.store, settling.queue_name, decision.children):
                decision = replace(decision, at_once=True)
        if settling.is_cancelled(step, lease):
            decision = _cancelled(step, decision)
        if isinstance(decision, Ending):
            return settling.end(step, decision, _NOTHING, rows, lease)
        now = settling.clock.now()
        return next_turn(step, decision, rows, taken, settling.store.next_job_id(), now)


def _cancelled(step: StepJob, verdict: Suspend | Ending) -> Suspend | Ending:
    """What becomes of a run that was asked to cancel when its turn is settled."""
    assert step.function is not None
    if isinstance(verdict, Suspend):
        if verdict.cancelling or step.function.cancelling:
            return verdict
        # It no longer waits for anything, so no signal is taken for it.
        return replace(verdict, at_once=True, cancelling=True, signals=(), children=())
    if verdict.state is RunState.SUCCEEDED:
        # Its effects must be compensated, which takes another turn.
        return Suspend(at_once=True, cancelling=True)
    return verdict if verdict.state is RunState.CANCELLED else CANCELLED


def _signals_of(step: StepJob, verdict: Suspend | Ending) -> set[str]:
    """Signals whose rows the settlement may need to change."""
    signals = verdict.signals if isinstance(verdict, Suspend) else ()
    return {*step.waited_for, *signals}
