"""Checks of what callers pass in, with errors that read like taquba's own."""

from __future__ import annotations

from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.validate import duration_ms, instance

__all__ = ["at_least_one", "duration_ms", "instance"]


def at_least_one(value: int, name: str) -> int:
    """Give back an int of 1 or more, refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentType(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise InvalidArgument(f"{name} must be at least 1; got {value}")
    return value
