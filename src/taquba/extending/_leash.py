"""Awaiting code of users so that it can be left behind, whatever it swallows."""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

from taquba._model.own_tasks import keep

T = TypeVar("T")


def awaited(value: Any) -> Awaitable[Any]:
    """Return what to await for the result of a user's function: what it returned, mostly.

    A plain decorator around an ``async def`` is a plain function, and returns a coroutine.
    """
    return value if _is_coroutine(value) or inspect.isawaitable(value) else _itself(value)


async def _itself(value: Any) -> Any:
    return value


def _is_coroutine(value: object) -> bool:
    """Most values are one, and this is sooner known than `isawaitable`."""
    return isinstance(value, types.CoroutineType)


class Leash(Generic[T]):
    """Awaits something that can be left behind.

    A cancellation is an exception, and code that catches everything continues after it. Code that
    is awaited through a leash can be left where it waits: it is never resumed, nothing more is
    thrown into it, and the code that awaits the leash gets an error instead.

    Args:
        work: What to await.
    """

    def __init__(self, work: Awaitable[T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._waits = False
        self._is_woken = False
        self._left_for: BaseException | None = None

    @property
    def left(self) -> bool:
        """Whether the work was left behind."""
        return self._left_for is not None

    def leave(self, error: BaseException) -> None:
        """Leave the work where it waits, or will wait next; `error` is raised in its place.

        Call it from the event loop, or from inside the work.
        """
        if self._left_for is not None:
            return
        self._left_for = error
        if self._waits and self._task is not None:
            self._is_woken = True
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, T]:
        self._task = asyncio.current_task()
        steps = self._work.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration as stop:
                result: T = stop.value
                return result
            thrown = None
            if self._left_for is None:
                self._waits = True
                try:
                    yield waited_for
                except BaseException as error:
                    thrown = error
                self._waits = False
            if self._left_for is not None:
                keep(self._work)
                if self._is_woken and self._task is not None:
                    self._task.uncancel()
                raise self._left_for
