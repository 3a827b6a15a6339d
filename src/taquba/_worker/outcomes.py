"""Exceptions by which a handler decides how its job ends."""

from __future__ import annotations

from typing import Final

from taquba._model import validate
from taquba._model.describing import describe
from taquba._model.errors import TaqubaError
from taquba._model.options import SettlementEffects
from taquba._model.validate import Duration


class PermanentFailure(TaqubaError):
    """Raise this in a handler to dead-letter the job at once, because no retry can help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FailWith(TaqubaError):
    """Raise this in a handler to fail the attempt, with effects if that dead-letters the job.

    Args:
        error: The error; an exception is recorded by its type and message. A `PermanentFailure`
            dead-letters the job at once.
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
    """Raise this in a handler to retry after `delay`. It counts as a failed attempt.

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
    """Raise this in a handler to put the job off for `delay`, without spending the attempt.

    It is for a job that cannot be processed yet through no fault of its own, for example because a
    receiver is busy. A job can be snoozed any number of times, and its history gets no entry;
    `reason` is its `last_error` until it ends.

    Args:
        delay: Seconds or `timedelta`; more than 0, because otherwise the job would return in a hot
            loop.
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
    """The function for a job has not begun: its attempt is not spent.

    Args:
        why: What happened.
        ends_worker: The error that ends the worker loop, which could not start any other function
            either.
    """

    permanent = False

    def __init__(self, why: str, *, ends_worker: BaseException | None = None) -> None:
        super().__init__(why)
        self.ends_worker = ends_worker


class LostProcess(NotStarted):
    """The process that ran the function died: the job is a suspect; an attempt alone is spent."""


_SAY_ALL: Final = (PermanentFailure, RetryAfter, Snooze)


def reason_of(error: str | BaseException) -> str:
    """Why an attempt failed, as text: the handler's own words, or type and message."""
    return describe(error, bare=_SAY_ALL)
