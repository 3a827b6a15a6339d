"""Tasks and the end of their event loop: some it must not cut off, some it must not wait for."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from taquba._model.errors import TaqubaError

T = TypeVar("T")


class OwnTask(asyncio.Task[None]):
    """A task that is not cut off by whoever cancels all tasks of its event loop.

    `asyncio.run` does so when its main function has ended, and so do handlers of signals. In the
    middle of a write nobody could tell then whether it lands. `cancel` only tells the owner, who
    has the task end soon, for the one who cancelled waits for that.

    So nothing that it awaits may use `cancel` for a purpose of its own, as time-outs do.

    Args:
        work: What it runs.
        name: Its name.
        cancelled: Told that somebody wants the task to end.
    """

    def __init__(
        self, work: Coroutine[Any, Any, None], name: str, cancelled: Callable[[], None]
    ) -> None:
        super().__init__(work, name=name)
        self._tell_owner = cancelled

    def cancel(self, msg: Any = None) -> bool:
        """Have the owner end it."""
        if self.done():
            return False
        self._tell_owner()
        return True

    def end(self) -> None:
        """Cancel it, on behalf of the owner."""
        super().cancel()


class LastTask(asyncio.Task[T]):
    """A task that comes to its end also when its event loop does, which waits for it.

    For what has to be done at the end, such as closing, and has bounds of its own. A cancellation
    while the event loop runs is one like any other.
    """

    def cancel(self, msg: Any = None) -> bool:
        """Cancel it, unless that is how the event loop ends."""
        # Runners cancel all tasks when they have stopped the loop, and then let it run once more.
        if asyncio._get_running_loop() is None:
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
    """Have nobody wait for a task that does not heed its cancellation.

    It runs on while its event loop does. Whoever ends the loop cancels all tasks that it knows,
    and would wait for this one for ever.
    """
    asyncio._unregister_task(task)
    # It is pending for good reason. No public name tells the loop so.
    vars_of: Any = task
    vars_of._log_destroy_pending = False
    keep(task)


def keep(work: object) -> None:
    """Have an object outlive the program.

    When a coroutine that waits is freed, `GeneratorExit` is thrown into it. One that swallows that
    as well would go on then, without an event loop, perhaps for ever.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(work))
