"""What can go wrong with runs, beside the errors of taquba itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

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
    """`permanent` and `transient` of `StepError`: on the class they make one, on one they tell."""

    def __init__(self, permanent: bool) -> None:
        self._makes_permanent = permanent

    @overload
    def __get__(self, error: None, kind: type[StepError]) -> Callable[[str], StepError]: ...
    @overload
    def __get__(self, error: StepError, kind: type[StepError]) -> bool: ...
    def __get__(
        self, error: StepError | None, kind: type[StepError]
    ) -> Callable[[str], StepError] | bool:
        if error is None:
            return lambda message: kind(message, permanent=self._makes_permanent)
        return error._permanent == self._makes_permanent  # pyright: ignore[reportPrivateUsage] - the two halves of one class


class StepError(TaqubaError):
    """Raise it in a step: ``StepError.transient(message)`` or ``StepError.permanent(message)``.

    A transient one is tried again, after the queue's backoff, while the step has attempts left; a
    permanent one ends the run as failed at once. Any other exception counts as transient.

    Attributes:
        message: What went wrong.
        permanent: On an error: whether no retry can help. On the class: makes such an error.
        transient: On an error: whether a retry may help. On the class: makes such an error.
    """

    # The root's plain attribute and the two ways to make an error share one name.
    permanent = _Verdict(permanent=True)  # pyright: ignore[reportAssignmentType,reportIncompatibleVariableOverride]
    transient = _Verdict(permanent=False)

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self._permanent = permanent

    def __reduce__(self) -> tuple[object, ...]:
        return (_step_error, (self.message, self._permanent))


def _step_error(message: str, permanent: bool) -> StepError:
    return StepError(message, permanent=permanent)
