"""The handler of a workflow queue: finds out which kind of job it is given."""

from __future__ import annotations

from taquba import JobRecord, LeaseHandle, SettlementEffects
from taquba_workflow import _headers
from taquba_workflow._kinds.ended_child import EndedChild
from taquba_workflow._kinds.settling import Settling
from taquba_workflow._kinds.step import StepKind
from taquba_workflow._kinds.turn import RunTurn, TurnKind
from taquba_workflow._steps import Runner


class WorkflowHandler:
    """Handles the jobs of a workflow queue for a worker loop.

    Args:
        settling: What is needed to settle steps and turns.
        runner: The code of the workflow's steps, if it has any.
        run_turn: Runs the turns of functions.
        replay: Whether a step's output is made durable before it is settled.
    """

    def __init__(
        self, settling: Settling, runner: Runner | None, run_turn: RunTurn, *, replay: bool
    ) -> None:
        self._steps = StepKind(settling, runner, replay=replay)
        self._turns = TurnKind(settling, run_turn)
        self._ended_children = EndedChild(settling.store, settling.queue_name)

    async def handle(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
        """Handler of the workflow queue."""
        kind: EndedChild | TurnKind | StepKind = self._steps
        if _headers.ENDED_CHILD in job.headers:
            kind = self._ended_children
        elif _headers.FUNCTION in job.headers:
            kind = self._turns
        return await kind.process(job, lease)
