"""What a handler raises to say how its job ends."""

from __future__ import annotations

from typing import Final

from taquba._model import validate
from taquba._model.describing import describe
from taquba._model.errors import TaqubaError
from taquba._model.options import SettlementEffects
from taquba._model.validate import Duration


class PermanentFailure(TaqubaError):
    """Raise it in a handler: no retry can help, dead-letter the job now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FailWith(TaqubaError):
    """Raise it in a handler: the attempt failed, and if that dead-letters the job, apply effects.

    Args:
        error: What went wrong; an exception stands for its type and message. A `PermanentFailure`
            dead-letters at once.
        effects: Applied in the same commit as the dead letter; discarded on a retry.
    """

    def __init__(self, error: str | BaseException, effects: SettlementEffects) -> None:
        validate.instance(effects, SettlementEffects, "effects")
        super().__init__(error, effects)
        self.error = error
        self.effects = effects

    def __str__(self) -> str:
        return reason_of(self.error)


class RetryAfter(TaqubaError):
    """Raise it in a handler: try again after `delay`. Counts as an attempt, like any failure.

    Args:
        delay: Seconds or `timedelta`.
        reason: Recorded as the attempt's error.
    """

    permanent = False

    def __init__(self, delay: Duration, reason: str = "the handler asked to be retried") -> None:
        super().__init__(delay, reason)
        self.delay_ms = validate.duration_ms(delay, "delay")
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Snooze(TaqubaError):
    """Raise it in a handler: not now, try again after `delay`. The attempt is not spent.

    For a job that cannot be worked on yet through no fault of its own, such as a receiver that
    is busy. Nothing bounds how often a job is snoozed, and its history gets no entry; `reason`
    is its `last_error` until it ends.

    Args:
        delay: Seconds or `timedelta`, more than 0: the job would come back in a hot loop.
        reason: Why the job waits.
    """

    permanent = False

    def __init__(self, delay: Duration, reason: str = "the handler put the job off") -> None:
        super().__init__(delay, reason)
        self.delay_ms = validate.duration_ms(delay, "delay", minimum=1)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NotStarted(TaqubaError):
    """The function that was to work on a job has not begun: its attempt is not spent.

    Args:
        why: What happened.
        ends_worker: What the worker loop ends with: it could start no other function, either.
    """

    permanent = False

    def __init__(self, why: str, *, ends_worker: BaseException | None = None) -> None:
        super().__init__(why)
        self.ends_worker = ends_worker


class LostProcess(NotStarted):
    """What ran the function has ended: the job is a suspect, its attempt spent if it ran alone."""


_SAY_ALL: Final = (PermanentFailure, RetryAfter, Snooze)


def reason_of(error: str | BaseException) -> str:
    """Why an attempt failed, as text: what its handler said, or type and message."""
    return describe(error, bare=_SAY_ALL)
