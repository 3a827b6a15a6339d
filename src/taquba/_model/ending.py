"""Exceptions of functions: whether they are failures, or end more than the function."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Iterator
from functools import partial
from types import CodeType, TracebackType
from typing import Final, TypeVar

from taquba._model.describing import describe

T = TypeVar("T")

_ASKED: Final = (
    "__cause__",
    "__context__",
    "__notes__",
    "__suppress_context__",
    "__traceback__",
    "add_note",
    "exceptions",
    "permanent",
)
"""What is read of an error where it is judged or logged."""

_EXITS: Final = (KeyboardInterrupt, SystemExit)

_OF_THE_LOOP: Final = (
    asyncio.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    StopAsyncIteration,
    StopIteration,
    SystemExit,
)
"""Exceptions that have a special meaning for coroutines."""


def ends_program(error: BaseException) -> bool:
    """Whether an exception of a user's function is meant for more than that function.

    That is so for a `SystemExit` or `KeyboardInterrupt` that a signal raised in this thread, and
    for the `GeneratorExit` of a coroutine that nobody runs any longer. An exception of the
    function's own code, such as the `SystemExit` of a command-line parser, is its failure. Call
    this in the thread where the exception was caught, with its traceback there.
    """
    if isinstance(error, GeneratorExit):
        return _is_abandoned()
    return isinstance(error, _EXITS) and _was_sent(error)


def is_stopped(error: BaseException) -> bool:
    """Whether an error is the cancellation that this task itself was sent.

    Then whoever runs the code that raised it wants to leave. Any other `asyncio.CancelledError`
    comes out of something that the code waited for, and is its failure.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def passes_through(error: BaseException) -> bool:
    """Whether an error out of a user's function was sent to this task, or to the program.

    It is no failure of the function then, and whoever called the function raises it again.
    """
    return is_stopped(error) or ends_program(error)


def failure_of(error: BaseException) -> BaseException:
    """An exception of a function as a failure that has no special meaning where it is awaited."""
    if not isinstance(error, _OF_THE_LOOP):
        return error
    failure = RuntimeError(f"the function raised {describe(error)}")
    failure.__cause__ = error
    return failure


def legible(error: BaseException) -> BaseException:
    """An error that can be asked what it is: itself, or one that tells of it.

    Call it on whatever a user's function raised, before anything else is done with that. An error
    whose attributes raise cannot be logged, and one whose ``__class__`` raises or lies cannot even
    be told from others by `isinstance`.
    """
    try:
        if error.__class__ is type(error):
            for name in _ASKED:
                getattr(error, name, None)
            return error
    except BaseException:
        pass
    return RuntimeError(f"the function raised {describe(error)}")


async def contained(work: Awaitable[T]) -> T:
    """Await `work` in a separate task: an exit that ends a task would end its event loop."""
    try:
        return await work
    except (GeneratorExit, *_EXITS) as error:
        if ends_program(error):
            raise
        raise failure_of(error) from error


def _is_abandoned() -> bool:
    """Whether the calling coroutine is being closed: then it must not wait for anything."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return True


def _was_sent(error: BaseException) -> bool:
    if threading.current_thread() is not threading.main_thread():
        # Python runs the handlers of signals in the main thread only.
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:
        # It is written in C, so it does not appear in the traceback.
        return True
    codes = {code for handler in handlers if (code := _code_of(handler)) is not None}
    return any(code in codes for code in _codes(error.__traceback__))


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - its code is looked for
    code: object = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _codes(trace: TracebackType | None) -> Iterator[CodeType]:
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next
