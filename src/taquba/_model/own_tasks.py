"""Tasks at the end of their event loop: some must not be cut off, some not waited for."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from taquba._model.errors import TaqubaError

T = TypeVar("T")


class OwnTask(asyncio.Task[None]):
    """A task that is not cut off when all tasks of its event loop are cancelled.

    `asyncio.run` cancels all tasks when its main function has ended, and so do handlers of signals.
    A write that is cut off has an unknown outcome. `cancel` only notifies the owner, which ends the
    task soon, because the canceller waits for that.

    So nothing that it awaits may use `cancel` for its own purposes, as timeouts do.

    In a forked child that ends its parent's event loop it is cut off: what it does is its parent's
    work, and the threads that would answer it are not there.

    Args:
        work: The coroutine that it runs.
        name: Its name.
        cancelled: Called when somebody wants the task to end.
    """

    def __init__(
        self, work: Coroutine[Any, Any, None], name: str, cancelled: Callable[[], None]
    ) -> None:
        super().__init__(work, name=name)
        self._tell_owner = cancelled
        self._pid = os.getpid()

    def cancel(self, msg: Any = None) -> bool:
        """Ask the owner to end it."""
        if self.done():
            return False
        if os.getpid() != self._pid:
            return super().cancel(msg)
        self._tell_owner()
        return True

    def end(self) -> None:
        """Cancel it, on behalf of the owner."""
        super().cancel()


class LastTask(asyncio.Task[T]):
    """A task that completes even when its event loop ends, which waits for it.

    It is for work that must be done at the end, such as closing, and that limits its own time. A
    cancellation while the event loop runs, or in a forked child, has the usual effect.

    Args:
        work: The coroutine that it runs.
        loop_ends: Called when the event loop, which waits for it, is to end. The loop does not run
            at that moment.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], loop_ends: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(work)
        self._loop_ends = loop_ends
        self._pid = os.getpid()

    def cancel(self, msg: Any = None) -> bool:
        """Cancel it, unless the event loop is ending."""
        # Runners cancel all tasks when they have stopped the loop, and then let it run once more.
        if asyncio._get_running_loop() is None and os.getpid() == self._pid:
            self._loop_ends()
            return False
        return super().cancel(msg)


def was_cancelled(task: asyncio.Future[Any]) -> TaqubaError:
    """What to raise where a task of ours was cancelled, and not by us."""
    name = task.get_name() if isinstance(task, asyncio.Task) else "of taquba"
    return TaqubaError(
        f"the task {name!r} was cancelled from outside, so what it belongs to has ended"
    )


def only_it_was_cancelled(task: asyncio.Future[Any]) -> bool:
    """Whether a `CancelledError` out of a task of ours was sent to that task, and not to this one.

    Whoever cancels one task of ours does not mean those that wait for it: they make it anew, or
    raise `was_cancelled`.
    """
    waiting = asyncio.current_task()
    return task.cancelled() and not (waiting is not None and waiting.cancelling())


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Let nobody wait for a task that ignores its cancellation.

    It continues while its event loop runs. Code that ends the loop cancels all tasks that it knows,
    and would wait for this one forever.
    """
    asyncio._unregister_task(task)
    # It is pending for good reason. No public API can say that to the loop.
    vars_of: Any = task
    vars_of._log_destroy_pending = False
    keep(task)


def keep(work: object) -> None:
    """Keep an object until the program ends.

    When a waiting coroutine is freed, `GeneratorExit` is thrown into it. A coroutine that swallows
    that as well would continue without an event loop, perhaps forever.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(work))
