"""Runs the pipeline as the one step of each item's run, and says how the item goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from taquba import InvalidArgument, InvalidArgumentType, PermanentFailure, Snooze
from taquba.extending.typed import Undecodable
from taquba_bulk._context import BulkContext
from taquba_bulk._phases import Phases
from taquba_bulk._pipeline import TypedPipeline
from taquba_bulk._records import ItemRow, ItemStatus, hash_of, keys_of
from taquba_workflow import Fail, Step, StepError, StepOutcome, Succeed

In = TypeVar("In")
Out = TypeVar("Out")

UNBOUNDED: Final = 2**31 - 1
"""Attempts of a run, as the workflow sees it: what ends an item is decided here, because only
outcomes, not errors, bring the item's row."""

_FINAL: Final = (PermanentFailure, InvalidArgument, InvalidArgumentType)
_LONGEST_REASON: Final = 4000
"""Characters of a reason that are kept: an exception's message may be of any length."""

_log: Final = logging.getLogger(__name__)


class Ended(NamedTuple):
    """What a pipeline came to, on its way to the store."""

    row: ItemRow
    plain: object
    """The output as plain data."""
    error: str | None


class ItemRunner(Generic[In, Out]):
    """The runner of a batch's runs.

    Args:
        pipeline: What is run.
        queue_name: The workflow queue.
        max_attempts: Of each item.
        settled: Told that an attempt is over, with the item's id and what the pipeline came to;
            whether that has landed, the store knows. None for an attempt that came to no end.
    """

    def __init__(
        self,
        pipeline: TypedPipeline[In, Out],
        queue_name: str,
        max_attempts: int,
        settled: Callable[[str, Ended | None], None],
    ) -> None:
        self._pipeline = pipeline
        self._keys = keys_of(queue_name)
        self._max_attempts = max_attempts
        self._settled = settled
        self.stopping = False

    async def run_step(self, step: Step) -> StepOutcome:
        """One attempt at an item."""
        if self.stopping:
            # For as short as possible: nothing claims it before the batch is run again.
            raise Snooze(0.001, "the batch was stopped")
        try:
            outcome, ended = await self._attempt(step, Phases(step.memo))
        except BaseException:
            step.lease.on_end(partial(self._settled, step.run_id, None))
            raise
        step.lease.on_end(partial(self._settled, step.run_id, ended))
        step.effects.kv_put(self._keys.item(step.run_id), ended.row.encode())
        return outcome

    async def _attempt(self, step: Step, phases: Phases) -> tuple[StepOutcome, Ended]:
        if step.attempts > self._max_attempts:
            return _failed(step, phases, f"no attempt of {self._max_attempts} came to an end")
        try:
            value = self._pipeline.inputs.load(step.payload)
            output = await self._pipeline.call(BulkContext(value, step, phases))
            plain = self._pipeline.outputs.plain(output)
            result = self._pipeline.outputs.pack(plain)
        except Undecodable as error:
            return _failed(step, phases, str(error))
        except Exception as error:
            if step.cancel_token.cancelled or not self._is_final(error, step):
                raise
            _log.warning(
                "item %s failed in attempt %d: %s",
                step.run_id,
                step.attempts,
                error,
                exc_info=error,
            )
            return _failed(step, phases, _describe(error))
        row = ItemRow(ItemStatus.succeeded, phases.costs.packed(), 0, hash_of(step.payload))
        return Succeed(result), Ended(row, plain, None)

    def _is_final(self, error: Exception, step: Step) -> bool:
        if isinstance(error, Snooze):
            return False
        permanent = isinstance(error, _FINAL) or (isinstance(error, StepError) and error.permanent)
        return permanent or step.attempts >= self._max_attempts


def _failed(step: Step, phases: Phases, reason: str) -> tuple[StepOutcome, Ended]:
    reason = reason.encode(errors="backslashreplace").decode()
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}... ({len(reason)} characters)"
    row = ItemRow(ItemStatus.failed, phases.costs.packed(), 0, hash_of(step.payload))
    return Fail(reason), Ended(row, None, reason)


def _describe(error: Exception) -> str:
    """An error as one line of text: what the pipeline said, or type and message."""
    if isinstance(error, PermanentFailure):
        return error.reason
    if isinstance(error, StepError) and error.message:
        return error.message
    message = str(error)
    name = type(error).__name__
    return f"{name}: {message}" if message else name
