"""Checks of what callers pass in. Each raises an error that names the value and the remedy."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from taquba import Duration, InvalidArgument, InvalidArgumentType

MAX_NAME_BYTES: Final = 1000
"""Longest key of a phase, in bytes of UTF-8."""

_LONGEST: Final = timedelta(days=36500)

MOST: Final = 10**9
"""Largest cost that can be recorded at once."""


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


def name(value: str, what: str) -> str:
    """A key that becomes part of a stored one."""
    instance(value, str, what)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} cannot be written as UTF-8: {value!r}") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise InvalidArgument(f"{what} has 1 to {MAX_NAME_BYTES} UTF-8 bytes; got {size}")
    return value


def amount(value: float, what: str) -> float:
    """A cost."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentType(f"{what} must be a number, not {value!r}")
    # Also refuses NaN, which compares with nothing.
    if not 0 <= value <= MOST:
        raise InvalidArgument(f"{what} must be between 0 and {MOST:,}; got {value}")
    return value


def duration_ms(value: Duration, what: str) -> int:
    """A duration of more than 0 in whole milliseconds, rounded up."""
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise InvalidArgumentType(
            f"{what} must be seconds (int or float) or a timedelta, not {value!r}"
        )
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # Also refuses NaN, which compares with nothing.
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise InvalidArgument(f"{what} must be more than 0 and at most 100 years; got {value!r}")
    return math.ceil(seconds * 1000)


def threshold(value: float | None) -> float | None:
    """A number of items, or a share of them."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentType(
            "fail_threshold must be a number of items (int) or a share of them (float), "
            f"not {value!r}"
        )
    if not math.isfinite(value) or value < 0 or (isinstance(value, float) and value >= 1):
        raise InvalidArgument(
            "fail_threshold must be a number of items, from 0 (an int), or a share of them, "
            f"from 0 to less than 1 (a float); got {value}"
        )
    return value
