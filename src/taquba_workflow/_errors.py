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
    """Raise it in a step: ``StepError.transient(message)`` or ``StepError.permanent(message)``.

    A transient one is tried again, after the queue's backoff, while the step has attempts left; a
    permanent one ends the run as failed at once. Any other exception counts as transient.

    Attributes:
        message: What went wrong.
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
