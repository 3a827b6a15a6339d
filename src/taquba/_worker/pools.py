"""Where plain functions run besides the threads of this process: an executor, or a maker of them.

If a ready-made executor breaks, its user must know. An executor that a maker made is replaced. An
exception of an executor is its own failure, not that of a function: exceptions of functions are
passed as data.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, cast

import anyio
import anyio.to_thread

from taquba._model.clock import Clock
from taquba._model.describing import describe, shown
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.own_tasks import only_it_was_cancelled
from taquba._worker.outcomes import LostProcess, NotStarted

_log: Final = logging.getLogger(__name__)

ExecutorOrFactory = Executor | Callable[[], Executor]
"""An executor, or a function that makes one, which is called again when the executor breaks."""

_FIRST_PAUSE_MS: Final = 100
_LONGEST_PAUSE_MS: Final = 30_000
_SOUND_MS: Final = 60_000
"""After an executor that lasted for this long, the next one is made without a longer pause."""

_QUEUED: Final = 1
"""Calls that a process pool passes to its processes ahead of time: they may have begun."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Pool:
    """The current executor of a worker loop or runner.

    Args:
        given: An executor, or a function that makes one.
        clock: The clock that measures pauses.
        functions: The functions to call; refused if they cannot be sent to a process that runs
            them.

    Raises:
        InvalidArgument: One of the functions cannot be sent to the given executor. For an executor
            that must be made first, `start` raises this.
    """

    def __init__(
        self, given: ExecutorOrFactory, clock: Clock, functions: Iterable[object] = ()
    ) -> None:
        check_executor(given)
        self._make = None if isinstance(given, Executor) else given
        self._clock = clock
        self._executor = given if isinstance(given, Executor) else None
        self._making: asyncio.Task[None] | None = None
        self._closed = False
        self._has_worked = False
        self._made_at = 0
        self._pause_ms = 0
        self._not_before = 0
        self._calls: dict[Future[Any], None] = {}
        """The calls that were submitted and are not done, in order."""
        self._begun: set[Future[Any]] = set()
        """The calls that may have begun in the executor that broke last."""
        self.failure: BaseException | None = None
        """Why the given executor can no longer be used."""
        self._functions = tuple(functions)
        for function in self._functions:
            check_portable(function, given)

    async def start(self, concurrency: int) -> None:
        """Make the executor if there is a maker; warn if it is too small for `concurrency`."""
        warn_if_too_small(await self.ready(), concurrency)

    @property
    def executor(self) -> Executor | None:
        """None if it must be made first."""
        return self._executor

    async def ready(self) -> Executor:
        """Return the executor. It is made anew at a bounded rate, until that works."""
        while self._executor is None:
            if self._making is None:
                self._making = asyncio.ensure_future(self._make_one())
                self._making.add_done_callback(self._end_making)
            making = self._making
            try:
                # The waiting callers share it, and each may stop waiting.
                await asyncio.shield(making)
            except asyncio.CancelledError:
                if self._closed or not only_it_was_cancelled(making):
                    raise
        return self._executor

    def _end_making(self, making: asyncio.Task[None]) -> None:
        self._making = None
        if not making.cancelled():
            # Callers that still waited for it got the exception.
            making.exception()

    async def _make_one(self) -> None:
        assert self._make is not None
        await self._wait(self._not_before - self._clock.monotonic_ms())
        try:
            # It may start processes, or connect to something.
            made = await anyio.to_thread.run_sync(self._make)
        except Exception as error:
            if not self._has_worked:
                raise
            self._pause_for(0, "could not be made", error)
            return
        if not isinstance(made, Executor):
            raise InvalidArgumentType(
                f"the maker of executors returned {shown(made)}, not a concurrent.futures.Executor"
            )
        for function in self._functions:
            check_portable(function, made)
        self._executor = made
        self._has_worked = True
        self._made_at = self._clock.monotonic_ms()

    async def _wait(self, wait_ms: int) -> None:
        if wait_ms > 0:
            over = asyncio.Event()
            timer = self._clock.call_later(wait_ms, over.set)
            try:
                await over.wait()
            finally:
                timer.cancel()

    def _pause_for(self, lasted_ms: int, what: str, error: BaseException) -> None:
        longer = _FIRST_PAUSE_MS if lasted_ms >= _SOUND_MS else 2 * self._pause_ms
        self._pause_ms = min(max(longer, _FIRST_PAUSE_MS), _LONGEST_PAUSE_MS)
        self._not_before = self._clock.monotonic_ms() + self._pause_ms
        _log.warning(
            "an executor %s; it is made anew in %.1f s: %s",
            what,
            self._pause_ms / 1000,
            describe(error),
        )

    def submit(
        self, executor: Executor, function: Callable[..., object], *args: object
    ) -> Future[Any]:
        """Call a function there."""
        with children_spared() if is_process_pool(executor) else nullcontext():
            future = executor.submit(function, *args)
        self._calls[future] = None
        return future

    def collected(self, future: Future[Any]) -> None:
        """Nobody waits for a call any longer."""
        if future.done():
            self._calls.pop(future, None)
        else:
            future.add_done_callback(lambda done: self._calls.pop(done, None))

    def unusable(self, executor: Executor, error: BaseException) -> None:
        """An executor no longer accepts calls."""
        if executor is not self._executor or self.failure is not None:
            return
        places = getattr(executor, "_max_workers", None)
        broken = [call for call in self._calls if call.done() and not call.cancelled()]
        broken = [call for call in broken if isinstance(call.exception(), BrokenExecutor)]
        if is_process_pool(executor) and isinstance(places, int):
            # It calls in the order of submission.
            broken = broken[: places + _QUEUED]
        self._begun = set(broken)
        if self._make is None:
            self.failure = error
            error.add_note(
                "The executor was passed to taquba ready-made. Pass a function that makes it, such "
                "as executor=lambda: ProcessPoolExecutor(4), and it is replaced when it breaks."
            )
            _end_processes(executor)
            return
        lasted_ms = self._clock.monotonic_ms() - self._made_at
        self._pause_for(lasted_ms, f"broke after {lasted_ms / 1000:.1f} s", error)
        self._executor = None
        _shut_down(executor, kill=True)

    def lost(self, executor: Executor, call: Future[Any], error: BaseException) -> NotStarted:
        """The outcome for the job of a call that the executor failed."""
        begun = True
        if isinstance(error, BrokenExecutor):
            self.unusable(executor, error)
            begun = not isinstance(error, BrokenThreadPool) and call in self._begun
        kind = LostProcess if begun else NotStarted
        return kind(f"its executor failed: {describe(error)}", ends_worker=self.failure)

    def close(self) -> None:
        """Shut down the executors that were made; calls that nobody waits for are killed."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
        if self._make is not None and self._executor is not None:
            _shut_down(self._executor, kill=bool(self._calls))
            self._executor = None


def check_executor(given: object) -> None:
    """Refuse an object that is neither an executor nor a maker of one."""
    if not isinstance(given, Executor) and not callable(given):
        raise InvalidArgumentType(
            f"executor must be a concurrent.futures.Executor, or a function that makes one, "
            f"not {shown(given)}"
        )


def warn_if_too_small(executor: Executor, concurrency: int) -> None:
    """Warn that jobs will be claimed only to wait for a place in their executor."""
    places: object = getattr(executor, "_max_workers", None)
    if isinstance(places, int) and places < concurrency:
        _log.warning(
            "concurrency is %d, but the executor runs %d at a time: the others are claimed and "
            "wait; make it larger, or concurrency smaller",
            concurrency,
            places,
        )


def is_process_pool(executor: object) -> bool:
    """Whether an executor runs functions in other processes.

    The standard library loads process pools, and with them `multiprocessing`, only for those that
    use one.
    """
    pools = sys.modules.get("concurrent.futures.process")
    return pools is not None and isinstance(executor, pools.ProcessPoolExecutor)


def check_portable(function: object, executor: object) -> None:
    """Refuse a function that cannot be sent to the processes of a pool."""
    if is_process_pool(executor):
        check_sendable(function)


def check_sendable(function: object) -> None:
    """Refuse a function that cannot be sent to another process."""
    try:
        pickle.dumps(function)
    except Exception as error:
        raise InvalidArgument(
            f"{shown(function)} cannot be sent to another process: {describe(error)}; it must be "
            "a function at the top level of a module, or an object that can be pickled"
        ) from None


def probe() -> None:
    """Called to test whether an executor works."""
    settle_in()


# -- the processes of a pool ----------------------------------------------------------------------
#
# A signal from a terminal or a service manager goes to the whole process group. The owner then
# drains, and the functions in its pool should finish, not die of the signal.


@contextmanager
def children_spared() -> Generator[None]:
    """Processes that are started within this block ignore the signals that ask them to stop."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_settled_in: bool = False


def settle_in() -> None:
    """In a process of a pool: ignore the signals that ask it to stop, while its owner lives.

    This uses handlers, which are not inherited: commands that a function starts can be stopped as
    usual.
    """
    global _settled_in
    # Loaded in every process of a pool.
    processes = sys.modules.get("multiprocessing")
    if _settled_in or processes is None or processes.parent_process() is None:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    _settled_in = True
    for number in _SIGNALS:
        signal.signal(number, _Patience(os.getppid()))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class _Patience:
    """A signal handler that ignores the first signal, and obeys the second, or an owner's end."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._asked = False

    def __call__(self, number: int, frame: object) -> None:
        if self._asked or os.getppid() != self._parent:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._asked = True


def _shut_down(executor: Executor, *, kill: bool) -> None:
    processes = _processes(executor)
    with suppress(Exception):
        executor.shutdown(wait=False, cancel_futures=True)
    if kill:
        _kill(processes)


def _end_processes(executor: Executor) -> None:
    """A broken pool asks its other processes to end, which they ignore."""
    _kill(_processes(executor))


def _processes(executor: Executor) -> list[Any]:
    # There is no public way to them before Python 3.14.
    found: object = getattr(executor, "_processes", None)
    return list(cast("dict[int, Any]", found).values()) if isinstance(found, dict) else []


def _kill(processes: list[Any]) -> None:
    for process in processes:
        # It may have ended, and been waited for, in this moment.
        with suppress(Exception):
            process.kill()
