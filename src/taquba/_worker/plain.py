"""Plain functions: called in a worker thread or an executor, and awaited on the event loop.

An exception of a function is passed as data. Set on a future, some exceptions would end the event
loop, some would be lost, and others would be taken for the loop's own.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import anyio
import anyio.to_thread

from taquba._model.clock import Clock, Timer
from taquba._model.describing import describe
from taquba._model.ending import failure_of, is_stopped, legible
from taquba._worker.lease_handle import LeaseHandle, call_of, runs_alone, set_call
from taquba._worker.outcomes import NotStarted
from taquba._worker.pools import Pool, is_process_pool, probe, settle_in
from taquba._worker.threads import busy

T = TypeVar("T")

_LOOKS: Final = 16
"""How often, in the time that a call may take, the loop checks whether it has begun."""


class PlainCall:
    """One call of a plain function.

    Args:
        clock: The queue's.
        lease: Of the job whose whole work the call is: it can be taken back at shutdown then, and
            a `RunTimer` leaves out the time for which it waits.
    """

    __slots__ = ("_asked_at", "_begin", "_clock", "_lease", "_ready", "_submitted")

    def __init__(self, clock: Clock, lease: LeaseHandle | None = None) -> None:
        self._clock = clock
        self._lease = lease
        self._ready: asyncio.Future[Executor] | None = None
        """Done when there is an executor; only while a call waits for it."""
        self._asked_at = clock.monotonic_ms()
        self._begin = _Begin(clock)
        self._submitted: Future[object] | None = None
        if lease is not None:
            set_call(lease, self)

    async def in_thread(
        self, threads: anyio.CapacityLimiter, function: Callable[..., T], *args: object
    ) -> T:
        """Call it in a thread. A call that nobody waits for any longer continues unobserved."""
        outcome: _Outcome[T] = _received(
            await anyio.to_thread.run_sync(
                _call, self._begin, function, args, limiter=threads, abandon_on_cancel=True
            )
        )
        try:
            return outcome.result()
        finally:
            del outcome

    async def in_executor(self, pool: Pool, function: Callable[..., T], *args: object) -> T:
        """Call it in an executor.

        Raises:
            NotStarted: The call was taken back before it began, by `withdraw` or the executor; or,
                as `LostProcess`, the executor has lost it.
        """
        executor = await self._submit(pool, function, args)
        submitted = self._submitted
        assert submitted is not None
        try:
            crossed = await asyncio.wrap_future(submitted)
        except asyncio.CancelledError as error:
            if submitted.cancelled() and not is_stopped(error):
                raise _not_started() from None
            raise
        except Exception as error:
            raise pool.lost(executor, submitted, error) from error
        finally:
            self._submitted = None
            pool.collected(submitted)
        outcome: _Outcome[T] = _received(crossed)
        try:
            return outcome.result()
        finally:
            del outcome

    async def _submit(
        self, pool: Pool, function: Callable[..., object], args: tuple[object, ...]
    ) -> Executor:
        """Call it, if necessary in an executor that must be made first."""
        packed: bytes | None = None
        while True:
            executor = pool.executor or await self._until_ready(pool)
            if packed is None and is_process_pool(executor):
                # A function that cannot be packed, or unpacked there, fails its own job, not the
                # pool.
                packed = pickle.dumps((self._begin, function, args))
            try:
                if self._lease is not None and runs_alone(self._lease):
                    # If the executor breaks now, this job will be blamed.
                    await asyncio.wrap_future(pool.submit(executor, probe))
                if is_process_pool(executor):
                    self._submitted = pool.submit(executor, _call_packed, packed)
                else:
                    self._submitted = pool.submit(executor, _call, self._begin, function, args)
            except Exception as error:
                pool.unusable(executor, error)
                if pool.failure is not None:
                    why = f"its executor accepts no calls: {describe(error)}"
                    raise NotStarted(why, ends_worker=pool.failure) from error
            else:
                return executor

    async def _until_ready(self, pool: Pool) -> Executor:
        self._ready = asyncio.ensure_future(pool.ready())
        try:
            return await self._ready
        except asyncio.CancelledError as error:
            if not is_stopped(error):
                raise _not_started() from None
            raise
        finally:
            self._ready.cancel()
            self._ready = None

    def withdraw(self) -> None:
        """Take the call back if it waits for its turn in an executor."""
        if self._submitted is not None:
            self._submitted.cancel()
        elif self._ready is not None:
            self._ready.cancel()

    def waited_ms(self) -> int:
        """How long it has waited so far, or waited in total, for its turn."""
        begun = self._begin.at_ms
        if begun is None:
            begun = self._clock.monotonic_ms()
            if self._submitted is not None and self._submitted.running():
                # In another process, whose note nobody sees.
                self._begin.at_ms = begun
        return begun - self._asked_at


class RunTimer:
    """Calls back when a job's function has run for a time; waiting does not count.

    Args:
        clock: The queue's.
        lease: The job's.
        timeout_ms: The time.
        callback: The function to call, on the event loop.
        pool: Where the function runs, if it is a plain one with an executor. For a call in another
            process the loop only polls whether it has begun, so it may get a sixteenth more.
    """

    __slots__ = ("_callback", "_clock", "_due", "_lease", "_step", "_timer")

    def __init__(
        self,
        clock: Clock,
        lease: LeaseHandle,
        timeout_ms: int,
        callback: Callable[[], None],
        pool: Pool | None = None,
    ) -> None:
        self._clock = clock
        self._lease = lease
        self._callback = callback
        self._due = clock.monotonic_ms() + timeout_ms
        self._step = timeout_ms if pool is None else max(1, timeout_ms // _LOOKS)
        self._timer: Timer = clock.call_later(self._step, self._look)

    def _look(self) -> None:
        call = call_of(self._lease)
        waited = 0 if call is None else call.waited_ms()
        left = self._due + waited - self._clock.monotonic_ms()
        if left <= 0:
            self._callback()
        else:
            self._timer = self._clock.call_later(min(left, self._step), self._look)

    def cancel(self) -> None:
        """Cancel the callback."""
        self._timer.cancel()


class _Begin:
    """Records when a call begins; the record of a copy in another process is not seen."""

    __slots__ = ("_clock", "at_ms")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self.at_ms: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return (_Begin, ())

    @property
    def is_here(self) -> bool:
        """Whether this is the process that waits for the call."""
        return self._clock is not None

    def note(self) -> None:
        if self._clock is not None:
            self.at_ms = self._clock.monotonic_ms()


class _Outcome(NamedTuple, Generic[T]):
    """The outcome of a call. A raised error refers to the frames it passes, so none may keep it."""

    value: T | None
    error: BaseException | None

    def result(self) -> T:
        if self.error is None:
            return cast("T", self.value)
        try:
            raise failure_of(self.error)
        finally:
            del self


def _call(
    begin: _Begin, function: Callable[..., T], args: tuple[object, ...]
) -> _Outcome[T] | bytes:
    """Call a function; its outcome leaves another process as bytes, which always unpickle."""
    begin.note()
    if begin.is_here:
        thread = threading.current_thread()
        busy.add(thread)
        try:
            return _called(function, args)
        finally:
            busy.discard(thread)
    return _packed(_called(function, args))


def _call_packed(work: bytes) -> bytes:
    """`_call` in a process of a pool."""
    settle_in()
    try:
        _, function, args = pickle.loads(work)
    except BaseException as error:
        why = "The function could not be loaded in the process that was to run it."
        return _packed(_Outcome(None, _noted(error, why)))
    return _packed(_called(function, args))


def _called(function: Callable[..., T], args: tuple[object, ...]) -> _Outcome[T]:
    try:
        return _Outcome(function(*args), None)
    except BaseException as error:
        return _Outcome(None, legible(error))


def _packed(outcome: _Outcome[Any]) -> bytes:
    try:
        error = outcome.error
        return pickle.dumps(outcome if error is None else _Outcome(None, _portable(error)))
    except BaseException as error:
        why = "What the function returned could not be sent to the process that waits."
        return pickle.dumps(_Outcome(None, _portable(_noted(error, why))))


def _received(crossed: object) -> _Outcome[Any]:
    """An outcome, wherever it comes from."""
    if not isinstance(crossed, bytes):
        return cast("_Outcome[Any]", crossed)
    try:
        return cast("_Outcome[Any]", pickle.loads(crossed))
    except BaseException as error:
        why = "What the function returned, or raised, could not be read in this process."
        return _Outcome(None, _noted(error, why))


def _noted(error: BaseException, note: str) -> BaseException:
    """An error of a user's own, which tells where it happened."""
    error = legible(error)
    with suppress(Exception):
        # Some cannot be changed.
        BaseException.add_note(error, note)
    return error


def _not_started() -> NotStarted:
    return NotStarted("it waited in its executor and was not started")


def _portable(error: BaseException) -> BaseException:
    """An error in a form that can leave its process, with its traceback as a note.

    One that pickles and does not unpickle would break the pool.
    """
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except BaseException:
        stand_in = RuntimeError(f"the function raised {describe(error)}")
        stand_in.__notes__ = error.__notes__
        return stand_in
    return error
