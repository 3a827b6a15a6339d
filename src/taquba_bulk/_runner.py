"""Runs the pipeline as the one step of each item's run, and decides how the item continues."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from taquba import InvalidArgument, InvalidArgumentType, PermanentFailure, RetryAfter, Snooze
from taquba.extending import (
    Leash,
    awaited,
    describe,
    legible,
    passes_through,
    without_secrets,
)
from taquba.extending.typed import Undecodable
from taquba_bulk._codec import check_json
from taquba_bulk._context import BulkContext
from taquba_bulk._phases import Phases
from taquba_bulk._pipeline import TypedPipeline
from taquba_bulk._records import ItemRow, ItemStatus, hash_of, keys_of
from taquba_bulk._running import RUN_HEADER
from taquba_bulk._shared import Shared
from taquba_bulk._stopping import Suspended, found_in
from taquba_workflow import Fail, Step, StepError, StepOutcome, Succeed

In = TypeVar("In")
Out = TypeVar("Out")

UNBOUNDED: Final = 2**31 - 1
"""Attempts of a run, as the workflow sees it: what ends an item is decided here, because only
outcomes, not errors, bring the item's row."""

_FINAL: Final = (PermanentFailure, InvalidArgument, InvalidArgumentType)
_SAY_ALL: Final = (PermanentFailure, StepError)
"""Errors whose message is sufficient without the type."""

_log: Final = logging.getLogger(__name__)


class Ended(NamedTuple):
    """The result of a pipeline, on its way to the store."""

    row: ItemRow
    output: bytes | None
    """What the pipeline returned, packed; None unless it succeeded."""
    error: str | None


class Gate(Protocol):
    """What lets items run in this process: the pass of a batch, or the help for another's."""

    @property
    def run_name(self) -> str:
        """The run of the batch."""
        ...

    async def admits(self, step: Step) -> bool:
        """Whether an item is one of the inputs that the run has read so far.

        Raises:
            Suspended: No further item may run.
        """
        ...

    def settled(self, run_id: str, ended: Ended | None) -> None:
        """An attempt is over; only the store knows whether its result was committed.

        Args:
            run_id: The item.
            ended: What the pipeline came to; None for an attempt without a result.
        """
        ...


class ItemRunner(Generic[In, Out]):
    """The runner of a batch's runs.

    Args:
        pipeline: The pipeline.
        queue_name: The workflow queue.
        max_attempts: The attempts of each item.
        shared: The state that the items share.
        gate: Says which items may run.
    """

    def __init__(
        self,
        pipeline: TypedPipeline[In, Out],
        queue_name: str,
        max_attempts: int,
        shared: Shared,
        gate: Gate,
    ) -> None:
        self._pipeline = pipeline
        self._keys = keys_of(queue_name)
        self._max_attempts = max_attempts
        self._shared = shared
        self._gate = gate

    async def run_step(self, step: Step) -> StepOutcome:
        """One attempt at an item."""
        self._shared.attempts.begun()
        step.lease.on_end(self._shared.attempts.ended)
        try:
            return await self._run(step)
        except Suspended:
            return await self._shared.attempts.park()

    async def _run(self, step: Step) -> StepOutcome:
        if self._shared.stopping:
            raise Suspended
        if not await self._gate.admits(step):
            raise Snooze(1, "its input has not been read again")
        phases = Phases(step.memo)
        try:
            outcome, ended = await self._attempt(step, phases)
        except BaseException:
            step.lease.on_end(partial(self._gate.settled, step.run_id, None))
            raise
        finally:
            phases.end(f"attempt {step.attempts} at item {step.run_id!r}")
        step.lease.on_end(partial(self._gate.settled, step.run_id, ended))
        step.effects.kv_put(self._keys.item(step.run_id), ended.row.encode())
        if step.headers.get(RUN_HEADER) != self._gate.run_name:
            step.effects.kv_delete(self._keys.readmitted(step.run_id))
        return outcome

    async def _attempt(self, step: Step, phases: Phases) -> tuple[StepOutcome, Ended]:
        if step.attempts > self._max_attempts:
            return _failed(step, phases, f"no attempt out of {self._max_attempts} ended")
        try:
            value = self._pipeline.inputs.load(step.payload)
            ctx = BulkContext(value, step, phases, self._shared)
            phases.leash = Leash(awaited(self._pipeline.call(ctx)))
            output = await phases.leash
            if phases.suspended:
                raise Suspended
            outputs = self._pipeline.outputs
            accepted = outputs.accept(output)
            result = outputs.pack(accepted)
            check_json(outputs.shown(accepted))
        except Undecodable as error:
            return _failed(step, phases, str(error))
        except BaseException as raised:
            failure = legible(raised)
            if passes_through(failure):
                # It ends more than the attempt.
                raise
            return await self._after(failure, step, phases)
        row = ItemRow(ItemStatus.SUCCEEDED, phases.costs.packed(), 0, hash_of(step.payload))
        return Succeed(result), Ended(row, result, None)

    async def _after(
        self, error: BaseException, step: Step, phases: Phases
    ) -> tuple[StepOutcome, Ended]:
        """How an item continues whose pipeline raised: it has failed, or is tried again."""
        if step.cancel_token.cancelled:
            raise error
        if phases.suspended or found_in(error, Suspended) is not None:
            raise Suspended from error
        put_off = found_in(error, RetryAfter)
        if put_off is not None:
            if phases.limited_by is not None:
                await phases.limited_by.pause(put_off.delay_ms)
            raise Snooze(max(1, put_off.delay_ms) / 1000, put_off.reason) from error
        if found_in(error, asyncio.CancelledError) is not None:
            raise error
        if not self._is_final(error, step):
            raise error
        reason = describe(error, bare=_SAY_ALL)
        _log.warning(
            "item %s failed in attempt %d: %s",
            step.run_id,
            step.attempts,
            reason,
            exc_info=without_secrets(error),
        )
        return _failed(step, phases, reason)

    def _is_final(self, error: BaseException, step: Step) -> bool:
        if isinstance(error, Snooze):
            return False
        permanent = isinstance(error, _FINAL) or (isinstance(error, StepError) and error.permanent)
        return permanent or step.attempts >= self._max_attempts


def _failed(step: Step, phases: Phases, reason: str) -> tuple[StepOutcome, Ended]:
    reason = describe(reason)
    row = ItemRow(ItemStatus.FAILED, phases.costs.packed(), 0, hash_of(step.payload))
    return Fail(reason), Ended(row, None, reason)
