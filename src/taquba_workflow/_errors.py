"""What can go wrong with runs, beside the errors of taquba itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, overload

from taquba import TaqubaError


class InputMismatch(TaqubaError):
    """A run with this id was submitted with another input; nothing was written."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r} was submitted before with another input; "
            "submit this one under another id"
        )


class _Verdict:
    """`permanent` and `transient` of `StepError`: makers on the class, verdicts on an error."""

    def __init__(self, make: Callable[[str], StepError], *, permanent: bool) -> None:
        self._make = make
        self._permanent = permanent

    @overload
    def __get__(self, error: None, kind: type[StepError]) -> Callable[[str], StepError]: ...
    @overload
    def __get__(self, error: StepError, kind: type[StepError]) -> bool: ...
    def __get__(
        self, error: StepError | None, kind: type[StepError]
    ) -> Callable[[str], StepError] | bool:
        if error is None:
            return self._make
        return error._permanent == self._permanent  # pyright: ignore[reportPrivateUsage] - the two halves of one class


def _make_permanent(message: str) -> StepError:
    """An error that no retry can help."""
    return StepError(message, permanent=True)


def _make_transient(message: str) -> StepError:
    """An error that a retry may help."""
    return StepError(message)


class StepError(TaqubaError):
    """Raise this in a step: ``StepError.transient(message)`` or ``StepError.permanent(message)``.

    A transient one is tried again, after the queue's backoff, while the step has attempts left; a
    permanent one ends the run as failed at once. Any other exception counts as transient.

    Attributes:
        message: The error, as text.
        permanent: On an error: whether no retry can help. On the class: makes such an error.
        transient: On an error: whether a retry may help. On the class: makes such an error.
    """

    # The root's plain attribute and the way to make an error share one name.
    permanent: _Verdict = _Verdict(_make_permanent, permanent=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    transient: _Verdict = _Verdict(_make_transient, permanent=False)

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self._permanent = permanent


class EffectsSealed(TaqubaError, RuntimeError):
    """An effect was staged for a step or a terminal hook that had ended: it would be lost.

    Attributes:
        call: The call.
        ended: The step or hook that had ended.
    """

    def __init__(self, call: str, ended: str) -> None:
        super().__init__(call, ended)
        self.call = call
        self.ended = ended

    def __str__(self) -> str:
        return (
            f"{self.call} was called after {self.ended} had ended, so it would have no effect: "
            "await every task that it starts before it returns"
        )


class NonDeterminism(TaqubaError):
    """A function has changed under a run: its replay makes calls that differ from its history.

    The run waits, without spending an attempt, for a program whose function makes the same calls:
    deploy the former one again, or let the change depend on `WorkflowContext.patched`.

    Attributes:
        run_id: The run.
        call: Where in the function, as in `CallRecord.call`.
        expected: The call in the history.
        came: The call that was made.
    """

    def __init__(self, run_id: str, call: str, expected: str, came: str) -> None:
        super().__init__(run_id, call, expected, came)
        self.run_id = run_id
        self.call = call
        self.expected = expected
        self.came = came

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r} cannot continue, because its function has changed: call "
            f"{self.call} was {self.expected} and is now {self.came}; deploy the former "
            "function again, or make the change depend on ctx.patched(...)"
        )


class StepFailed(TaqubaError):
    """A step of a function has failed for good; raised in the function.

    Attributes:
        step: Its name.
        kind: Name of the class of its last exception.
        message: The message of that exception.
    """

    def __init__(self, step: str, kind: str, message: str) -> None:
        super().__init__(step, kind, message)
        self.step = step
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"step {self.step!r} failed: {self.kind}: {self.message}"


class _EndedOtherwise(TaqubaError):
    """A run has no result: it has failed, or was cancelled."""

    _what: ClassVar[str]

    def __init__(self, run_id: str, state: str, reason: str) -> None:
        super().__init__(run_id, state, reason)
        self.run_id = run_id
        self.state = state
        self.reason = reason

    def __str__(self) -> str:
        return f"{self._what} {self.run_id!r} {self.state}: {self.reason}"


class ChildFailed(_EndedOtherwise):
    """A child of a function has failed, or was cancelled; raised in the function.

    Attributes:
        run_id: The child's id.
        state: ``failed`` or ``cancelled``.
        reason: Why.
    """

    _what = "child"


class SignalTaken(TaqubaError):
    """A function tried to wait for a signal that another run waits for; raised in the function.

    Attributes:
        key: The signal.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"another run already waits for the signal {self.key!r}: "
            "use a separate key for each run"
        )


class RunFailed(_EndedOtherwise):
    """A run has failed, or was cancelled; raised when its result is requested.

    Attributes:
        run_id: The run.
        state: ``failed`` or ``cancelled``.
        reason: Why.
    """

    _what = "run"


class RunNotFound(TaqubaError):
    """There is no such run, or it has been removed.

    Attributes:
        run_id: The run.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"there is no run {self.run_id!r}: it was never submitted, or it has been removed"


class MisplacedCall(TaqubaError, RuntimeError):
    """A context was used in a place where a replay could not find the call again."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"the context of a workflow was used {self.where}: call it in the function itself, "
            "or in a function that is given to ctx.gather"
        )
