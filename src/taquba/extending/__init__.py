"""For packages built on a queue: turns in the owner's memory, and a loop behind ``async with``.

One process owns a store. So who reads an entry, decides, and writes it has to keep off only others
of the same process: `locks_of` gives the locks for that, and `seen_through` keeps a decision from
being cut off, and its lock from being given back, while it is on its way to the store. Who answers
by an entry, without writing, calls `until_durable` first.

The modules, top to bottom; each uses only those below it:

    typed     a function's arguments and result: checked against its annotations
    _codec    values of one type, to and from MessagePack: what is read is what was written
    _leash    awaiting code of users so that it can be left behind, whatever it swallows
    _schemas  what pydantic's schema of an annotation tells about its values, before there is any
    _wire     values as MessagePack, the same bytes for equal values
    checks    checks of what callers pass in, with errors that read like taquba's own
    _functions
              the function that somebody wrote, below what was put around it
    named     objects that an entry names: each was written before the entry, so it is there
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from taquba._interface.store import Store
from taquba._memory.locks import HeldLocks, KeyLocks
from taquba._model import validate
from taquba._model.codec import UNREADABLE
from taquba._model.describing import describe, shown
from taquba._model.ending import contained, ends_program
from taquba._model.errors import InvalidArgument, TaqubaError
from taquba._model.redaction import redact, without_secrets
from taquba._model.validate import KvKey
from taquba._queue import key_values
from taquba._queue.owner import owner_of
from taquba._worker.outcomes import NotStarted
from taquba._worker.plain import PlainCall, RunTimer
from taquba._worker.pools import ExecutorOrFactory, Pool
from taquba.extending._leash import Leash

__all__ = [
    "UNREADABLE",
    "ExecutorOrFactory",
    "HeldLocks",
    "KeyLocks",
    "Leash",
    "NotStarted",
    "PlainCall",
    "Pool",
    "RunTimer",
    "RunsInBackground",
    "awaited",
    "contained",
    "describe",
    "ends_program",
    "is_stopped",
    "locks_of",
    "only_runner",
    "redact",
    "seen_through",
    "shown",
    "until_durable",
    "was_cancelled",
    "without_secrets",
]

T = TypeVar("T")


_log: Final = logging.getLogger(__name__)


def locks_of(store: Store) -> KeyLocks:
    """Locks that all users of a store share.

    Begin their names with your package's, as in ``("taquba_cron", schedule_name)``.
    """
    return owner_of(store).turns


async def until_durable(store: Store, key: KvKey) -> None:
    """Wait until what an entry holds, or that there is none, survives a crash.

    `Store.kv_get` sees a commit a moment before it is durable. Most often it is by now, and this
    costs nothing.
    """
    owner = owner_of(store)
    owner.check()
    await key_values.until_durable(owner, validate.kv_key(key))


async def seen_through(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which goes on when the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_ignore)
        raise


async def awaited(value: Any) -> Any:
    """A value that a user's function has returned; where it can be awaited, what that comes to.

    A plain decorator around an ``async def`` is a plain function, and returns a coroutine.
    """
    return await value if inspect.isawaitable(value) else value


def is_stopped(error: BaseException) -> bool:
    """Whether an error is the cancellation that this task itself was sent.

    Then whoever runs the code that raised it wants to leave. Any other `asyncio.CancelledError`
    comes out of something that the code waited for, and is its failure.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _ignore(task: asyncio.Task[Any]) -> None:
    # Its caller is gone; an exception that nobody asks for would be reported by the loop.
    if not task.cancelled():
        task.exception()


@contextmanager
def only_runner(store: Store, handlers: Mapping[str, object]) -> Generator[None]:
    """Have queues to oneself, in this process, while this is entered.

    Args:
        store: An open `taquba.Queue`.
        handlers: The handler of each queue, by its name, as given to `run_worker`.

    Raises:
        InvalidArgument: Somebody works on one of the queues already, with a handler of its own.
    """
    owner = owner_of(store)
    for name in handlers:
        if name in owner.runners or owner.queue(name).loops:
            raise InvalidArgument(
                f"queue {name!r} is worked on already in this process, by another runner or "
                "worker, and each would take the other's jobs: give one of them another queue_name"
            )
    owner.runners.update(handlers)
    try:
        yield
    finally:
        for name in handlers:
            owner.runners.pop(name, None)


def was_cancelled(task: asyncio.Task[Any]) -> TaqubaError:
    """What to raise where a task of ours was cancelled, and not by us."""
    return TaqubaError(
        f"the task {task.get_name()!r} was cancelled from outside, so what it belongs to has ended"
    )


class RunsInBackground(ABC):
    """Something whose `run` goes on for as long as its ``async with`` block does.

    What ends `run` early is raised where the block ends, or logged where an error of the block is
    on its way already. A block that is cancelled cancels `run`.
    """

    _running: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self, shutdown: asyncio.Event | None = None) -> None:
        """Go on until `shutdown` is set."""

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise InvalidArgument(
                f"this {type(self).__name__} is running already; make one per `async with`"
            )
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(
            self.run(self._stop), name=f"taquba-{type(self).__name__}"
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._running is not None
        running, self._running = self._running, None
        self._stop.set()
        cancels = isinstance(error, asyncio.CancelledError)
        if cancels:
            # Whoever cancels wants to leave now.
            running.cancel()
        await asyncio.wait([running])
        failure: BaseException | None
        if not running.cancelled():
            failure = running.exception()
        else:
            failure = None if cancels else was_cancelled(running)
        if failure is not None and error is not None:
            shown = without_secrets(failure)
            _log.error("%s had ended with an error", type(self).__name__, exc_info=shown)
        elif failure is not None:
            raise failure
