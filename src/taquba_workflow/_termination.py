"""The end of a run, as its hook sees it: a separate job, enqueued by the commit that ends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from taquba import (
    EnqueueRequest,
    JobRecord,
    PermanentFailure,
)
from taquba.extending import UNREADABLE, describe, without_secrets
from taquba.extending.times import from_ms, to_ms
from taquba_workflow import _headers
from taquba_workflow._effects import TerminalEffects
from taquba_workflow._records import RunState

_log: Final = logging.getLogger(__name__)

_STATE: Final = "workflow.outcome"
_ENDED_AT: Final = "workflow.ended_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        run_id: Its id.
        state: `succeeded`, `failed` or `cancelled`.
        step_number: The step with which it ended.
        result: The result of a run that succeeded, otherwise None.
        reason: Why it failed or was cancelled, otherwise None.
        headers: The headers of its submission.
        ended_at: When it ended.
    """

    run_id: str
    state: RunState
    step_number: int
    result: bytes | None
    reason: str | None
    headers: Mapping[str, str]
    ended_at: datetime


class TerminalHook(Protocol):
    """Notified of every end of a run, at least once. Derive from it to get `observes`."""

    async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
        """Act on the end of a run.

        It runs as a separate job: an exception retries it as that job's queue is configured, except
        `StepError.permanent` and `taquba.PermanentFailure`, which make it a dead letter at once.
        The effects staged in `effects` are applied when it returns.
        """
        ...

    def observes(self, outcome: RunOutcome) -> bool:
        """Return whether to notify the hook.

        Called in the process that ends the run, perhaps more than once, so it must be quick.
        """
        return True


def termination_queue(queue_name: str) -> str:
    """Name of the queue of a workflow queue's terminal notifications."""
    return f"{queue_name}.termination"


def notification(queue_name: str, outcome: RunOutcome) -> EnqueueRequest:
    """The job that notifies the hook."""
    content = outcome.result if outcome.reason is None else outcome.reason.encode()
    return EnqueueRequest(
        termination_queue(queue_name),
        content or b"",
        headers={
            **outcome.headers,
            _headers.RUN_ID: outcome.run_id,
            _headers.STEP: str(outcome.step_number),
            _STATE: outcome.state.value,
            _ENDED_AT: str(to_ms(outcome.ended_at)),
        },
    )


def told_outcome(job: JobRecord) -> RunOutcome:
    """The outcome in a notification."""
    try:
        own, headers = _headers.split(job.headers)
        state = RunState(own[_STATE])
        return RunOutcome(
            run_id=own[_headers.RUN_ID],
            state=state,
            step_number=int(own[_headers.STEP]),
            result=job.payload if state is RunState.SUCCEEDED else None,
            reason=None if state is RunState.SUCCEEDED else job.payload.decode(),
            headers=headers,
            ended_at=from_ms(int(own[_ENDED_AT])),
        )
    except UNREADABLE as error:
        raise PermanentFailure(
            f"job {job.id!r} is not a notification of a run's end ({describe(error)}): "
            f"queue {job.queue!r} is the workflow runtime's own"
        ) from None


class Notifier:
    """Decides of which ends a hook is notified."""

    def __init__(self, queue_name: str, hook: TerminalHook | None) -> None:
        self._queue_name = queue_name
        self._hook = hook

    def announce(self, outcome: RunOutcome) -> list[EnqueueRequest]:
        """The notification, if there is a hook that wants it."""
        if self._hook is None or not self._observes(self._hook, outcome):
            return []
        return [notification(self._queue_name, outcome)]

    @staticmethod
    def _observes(hook: TerminalHook, outcome: RunOutcome) -> bool:
        # A hook need not derive from the protocol, so it may have only the method that counts.
        observes = getattr(hook, "observes", None)
        if observes is None:
            return True
        try:
            return bool(observes(outcome))
        except Exception as error:
            # A run must end even if its hook fails; an extra notification is harmless.
            _log.error(
                "observes() of the terminal hook failed for run %r",
                outcome.run_id,
                exc_info=without_secrets(error),
            )
            return True
