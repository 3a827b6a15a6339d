"""The function that a user wrote, below its decorators."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType


def written_function(called: object) -> FunctionType | None:
    """The `def` below decorators, partials, bound methods and callable objects.

    None if there is none, as for functions written in C.
    """
    while not isinstance(called, FunctionType) or hasattr(called, "__wrapped__"):
        below = _below(called)
        if below is None:
            return None
        called = below
    return called


def _below(called: object) -> object:
    if isinstance(called, partial):
        return called.func
    if callable(called) and hasattr(called, "__wrapped__"):
        return inspect.unwrap(called)
    if inspect.ismethod(called):
        return called.__func__
    call = getattr(type(called), "__call__", None)  # noqa: B004 - an object with a method of that name
    return call if isinstance(call, FunctionType) else None
