"""Checks of what callers pass in."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from taquba import Duration, InvalidArgument, InvalidArgumentType

_LONGEST: Final = timedelta(days=36500)


def duration_ms(value: Duration, name: str) -> int:
    """A duration of more than 0 in whole milliseconds, rounded up."""
    if not isinstance(value, timedelta):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidArgumentType(
                f"{name} must be seconds (int or float) or a timedelta, not {value!r}"
            )
        # Also refuses NaN, which compares with nothing.
        if not 0 < value <= _LONGEST.total_seconds():
            raise InvalidArgument(f"{name} must be more than 0 and at most 100 years; got {value}")
        value = timedelta(seconds=value)
    if not timedelta() < value <= _LONGEST:
        raise InvalidArgument(f"{name} must be more than 0 and at most 100 years; got {value}")
    return -(-value // timedelta(milliseconds=1))


def instance(value: object, expected: type, name: str) -> None:
    if not isinstance(value, expected):
        raise InvalidArgumentType(
            f"{name} must be a {expected.__name__}, not {type(value).__name__}"
        )


def at_least_one(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentType(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise InvalidArgument(f"{name} must be at least 1; got {value}")
    return value
