"""Checks of arguments. Each raises an error that names the value and the remedy."""

from __future__ import annotations

import math
from typing import Final

from taquba import InvalidArgument, InvalidArgumentType
from taquba.extending.checks import key

MAX_NAME_BYTES: Final = 1000
"""Longest key of a phase, in bytes of UTF-8."""

MOST: Final = 10**9
"""Largest cost that can be recorded at once."""


def name(value: str, what: str) -> str:
    """A key that becomes part of a stored key."""
    return key(value, what, MAX_NAME_BYTES)


def amount(value: float, what: str) -> float:
    """A cost."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentType(f"{what} must be a number, not {value!r}")
    # Also refuses NaN, which compares with nothing.
    if not 0 <= value <= MOST:
        raise InvalidArgument(f"{what} must be between 0 and {MOST:,}; got {value}")
    return value


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
