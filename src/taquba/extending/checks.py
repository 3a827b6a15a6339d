"""Checks of arguments, with errors that read like taquba's own."""

from __future__ import annotations

import inspect

from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.validate import duration_ms, instance, key, text, utf8
from taquba._worker.shutdown import check_shutdown
from taquba.extending._functions import written_function

__all__ = [
    "at_least_one",
    "check_shutdown",
    "duration_ms",
    "instance",
    "key",
    "makes_coroutines",
    "plain_function",
    "text",
    "utf8",
    "written_function",
    "yields_nothing",
]


def plain_function(function: object, name: str) -> None:
    """Refuse an ``async def`` if the result is needed at once."""
    if makes_coroutines(function):
        raise InvalidArgumentType(f"{name} is called without await: make it a plain `def`")


def makes_coroutines(function: object) -> bool:
    """Whether a function is an ``async def``, or what plain decorators made of one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        written_function(function)
    )


def yields_nothing(function: object, name: str) -> None:
    """Refuse an ``async def`` that yields: calling it makes a generator, and runs nothing."""
    if inspect.isasyncgenfunction(written_function(function)):
        raise InvalidArgumentType(f"{name} must return its result, not yield: {function!r}")


def at_least_one(value: int, name: str) -> int:
    """Return an int of 1 or more, refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentType(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise InvalidArgument(f"{name} must be at least 1; got {value}")
    return value
