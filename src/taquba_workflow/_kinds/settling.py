"""What the settlements of steps and of turns have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from taquba import (
    Clock,
    FailWith,
    JobRecord,
    KvKey,
    LeaseHandle,
    PermanentFailure,
    SettlementEffects,
    Store,
)
from taquba.extending import UNREADABLE, describe
from taquba.extending.halves import TwoHalves
from taquba_workflow._cancelling import request_key, request_of
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import Values
from taquba_workflow._outcomes import Cancel, Fail, Succeed
from taquba_workflow._records import LiveRun, RunState, decode_run
from taquba_workflow._signals import SignalBoard
from taquba_workflow._steps import StepJob, read_step
from taquba_workflow._transitions import Basis, Ending

CANCELLED: Final = Ending(RunState.CANCELLED, reason="cancelled on request")

EndRun = Callable[[StepJob, Ending, SettlementEffects, Basis], SettlementEffects]
"""Changes that must be in the commit of a step that ends its run."""

V = TypeVar("V")
D = TypeVar("D")

_log: Final = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """A step, or a turn, as its job delivers it."""

    step: StepJob
    last_error: str | None
    """The error of the attempt before."""


class Settling:
    """What steps and turns need to be settled.

    Args:
        store: An open handle on the store.
        queue_name: The workflow queue.
        clock: Where time comes from.
        signals: The signals that steps wait for.
        end_run: Ends a run.
        ended: Called when the end of a run is committed.
    """

    def __init__(
        self,
        store: Store,
        queue_name: str,
        *,
        clock: Clock,
        signals: SignalBoard,
        end_run: EndRun,
        ended: Callable[[], None],
    ) -> None:
        self.store = store
        self.queue_name = queue_name
        self.clock = clock
        self.signals = signals
        self.keys = keys_of(queue_name)
        self.values = Values(store, queue_name)
        self._end_run = end_run
        self._ended = ended

    async def begin(self, delivery: Delivery) -> None:
        """Make sure that a step is its run's."""
        if delivery.last_error is not None:
            await self._check_current(delivery.step)

    async def _check_current(self, step: StepJob) -> None:
        """Refuse a dead step that somebody requeued after its run had ended."""
        row = await self.store.kv_get(self.keys.run(step.run_id))
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

    async def ending(self, step: StepJob, outcome: Succeed | Fail | Cancel) -> Ending:
        """An outcome that ends a run; a large result is written."""
        match outcome:
            case Succeed(result):
                packed = await self.values.pack(step.run_id, result)
                return Ending(RunState.SUCCEEDED, result, packed_result=packed)
            case Fail(reason):
                return Ending(RunState.FAILED, reason=reason)
            case Cancel(reason):
                return Ending(RunState.CANCELLED, reason=reason)

    async def is_to_be_cancelled(self, step: StepJob, expected: dict[KvKey, bytes | None]) -> bool:
        """Whether a request to cancel a run was written down; what was read is in `expected`."""
        key = request_key(self.queue_name, step.run_id)
        request = expected[key] = await self.store.kv_get(key)
        return request == request_of(step)

    def end(
        self,
        step: StepJob,
        ending: Ending,
        staged: SettlementEffects,
        basis: Basis,
        lease: LeaseHandle,
    ) -> SettlementEffects:
        """What ends a run; raises with it where the job is to be a dead letter."""
        effects = self._end_run(step, ending, staged, basis)
        lease.on_end(self._ended)
        if ending.dead_letter:
            raise FailWith(PermanentFailure(ending.reason or ""), effects)
        return effects


class RunKind(TwoHalves[Delivery, V, D]):
    """A handler of jobs that carry on a run.

    Args:
        settling: What is needed to settle them.
    """

    def __init__(self, settling: Settling) -> None:
        super().__init__()
        self._settling = settling

    def read(self, job: JobRecord) -> Delivery:
        """The step, or turn, that a job carries."""
        return Delivery(read_step(job), job.last_error)

    async def begin(self, work: Delivery) -> None:
        """Make sure that it is its run's."""
        await self._settling.begin(work)


def broken(reason: str) -> Ending:
    """The end of a run whose step came to no outcome."""
    return Ending(RunState.FAILED, reason=reason, dead_letter=True)
