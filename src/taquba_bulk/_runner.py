"""Runs the pipeline as the one step of each item's run, and decides how the item continues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

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


class ItemRunner(Generic[In, Out]):
    """The runner of a batch's runs.

    Args:
        pipeline: The pipeline.
        queue_name: The workflow queue.
        max_attempts: The attempts of each item.
        shared: The state that the items share.
        is_read: Whether an item is one of the inputs that were read so far.
        settled: Called when an attempt is over, with the item's id and the pipeline's result; only
            the store knows whether that was committed. None for an attempt without a result.
    """

    def __init__(
        self,
        pipeline: TypedPipeline[In, Out],
        queue_name: str,
        max_attempts: int,
        shared: Shared,
        is_read: Callable[[str], Awaitable[bool]],
        settled: Callable[[str, Ended | None], None],
    ) -> None:
        self._pipeline = pipeline
        self._keys = keys_of(queue_name)
        self._max_attempts = max_attempts
        self._shared = shared
        self._is_read = is_read
        self._settled = settled

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
        if not await self._is_read(step.run_id):
            raise Snooze(1, "its input has not been read again")
        phases = Phases(step.memo)
        try:
            outcome, ended = await self._attempt(step, phases)
        except BaseException:
            step.lease.on_end(partial(self._settled, step.run_id, None))
            raise
        finally:
            phases.end(f"attempt {step.attempts} at item {step.run_id!r}")
        step.lease.on_end(partial(self._settled, step.run_id, ended))
        step.effects.kv_put(self._keys.item(step.run_id), ended.row.encode())
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
            return self._after(failure, step, phases)
        row = ItemRow(ItemStatus.SUCCEEDED, phases.costs.packed(), 0, hash_of(step.payload))
        return Succeed(result), Ended(row, result, None)

    def _after(self, error: BaseException, step: Step, phases: Phases) -> tuple[StepOutcome, Ended]:
        """How an item continues whose pipeline raised: it has failed, or is tried again."""
        if step.cancel_token.cancelled:
            raise error
        if phases.suspended or found_in(error, Suspended) is not None:
            raise Suspended from error
        put_off = found_in(error, RetryAfter)
        if put_off is not None:
            if phases.limited_by is not None:
                phases.limited_by.pause(put_off.delay_ms)
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
