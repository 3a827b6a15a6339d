"""The end of a run: tells the terminal hook."""

from __future__ import annotations

from taquba import JobRecord, LeaseHandle, PermanentFailure, SettlementEffects
from taquba.extending import awaited, describe
from taquba.extending.halves import TwoHalves
from taquba_workflow._effects import TerminalEffects
from taquba_workflow._errors import StepError
from taquba_workflow._termination import RunOutcome, TerminalHook, told_outcome


class EndedRun(TwoHalves[RunOutcome, SettlementEffects, SettlementEffects]):
    """The handler of notifications."""

    def __init__(self, hook: TerminalHook) -> None:
        super().__init__()
        self._hook = hook

    def read(self, job: JobRecord) -> RunOutcome:
        """The outcome that a job tells of."""
        return told_outcome(job)

    async def perform(self, work: RunOutcome, lease: LeaseHandle) -> SettlementEffects:
        """Call the hook; what it staged."""
        effects = TerminalEffects()
        try:
            await awaited(self._hook.on_termination(work, effects))
        except StepError as error:
            if error.permanent:
                raise PermanentFailure(describe(error, bare=(StepError,))) from error
            raise
        finally:
            effects.seal(f"the terminal hook for run {work.run_id!r}")
        return effects.settlement()

    def judge(
        self, work: RunOutcome, verdict: SettlementEffects, lease: LeaseHandle
    ) -> SettlementEffects:
        """What the hook staged."""
        return verdict

    async def conclude(
        self, work: RunOutcome, decision: SettlementEffects, lease: LeaseHandle
    ) -> SettlementEffects:
        """What the hook staged is what lands."""
        return decision
