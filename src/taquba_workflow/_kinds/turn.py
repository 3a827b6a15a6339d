"""A turn of a function: runs it as far as it gets, and writes down what it waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from taquba import KvKey, LeaseHandle, SettlementEffects
from taquba_workflow._cancelling import looks
from taquba_workflow._children import any_ended, mark_key
from taquba_workflow._kinds.settling import CANCELLED, Delivery, RunKind, Settling
from taquba_workflow._outcomes import Cancel, Fail, Succeed, Suspend
from taquba_workflow._records import RunState
from taquba_workflow._steps import StepJob
from taquba_workflow._transitions import Basis, Ending, next_turn

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

    async def conclude(
        self, work: Delivery, decision: Suspend | Ending, lease: LeaseHandle
    ) -> SettlementEffects:
        """The job of the next turn with what its waits need, or the end of the run."""
        settling, step = self._settling, work.step
        expected: dict[KvKey, bytes | None] = {}
        cancelled = lease.cancel_token.cancelled or (
            looks(step) and await settling.is_to_be_cancelled(step, expected)
        )
        if cancelled:
            decision = _cancelled(step, decision)
        rows = await settling.signals.rows(_signals_of(step, decision), expected)
        basis = Basis(rows, expected, unless_cancelled=not cancelled)
        if isinstance(decision, Ending):
            return settling.end(step, decision, _NOTHING, basis, lease)
        signals = settling.signals
        taken = [key for key in decision.signals if await signals.waiter(rows[key]) is not None]
        if decision.children and not decision.at_once:
            decision = await self._wait_for_children(step, decision, expected)
        now = settling.clock.now()
        return next_turn(step, decision, basis, taken, settling.store.next_job_id(), now)

    async def _wait_for_children(
        self, step: StepJob, decision: Suspend, expected: dict[KvKey, bytes | None]
    ) -> Suspend:
        """Wait for children, unless one has ended since the turn looked at them."""
        store, queue_name = self._settling.store, self._settling.queue_name
        key = mark_key(queue_name, step.run_id)
        mark = await store.kv_get(key)
        if mark != decision.mark and await any_ended(store, queue_name, decision.children):
            return replace(decision, at_once=True)
        expected[key] = mark
        return decision


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
