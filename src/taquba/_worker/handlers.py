"""Handlers: the forms a user may write them in, as one async call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol, cast

import anyio

from taquba._model.clock import Clock
from taquba._model.describing import shown
from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.options import SettlementEffects
from taquba._model.records import JobRecord
from taquba._worker.lease_handle import LeaseHandle
from taquba._worker.plain import PlainCall
from taquba._worker.pools import ExecutorOrFactory, Pool, check_executor, check_portable

HandlerResult = SettlementEffects | None
"""The result of a handler: effects to apply with the ack, or None."""

AsyncHandler = Callable[[JobRecord, LeaseHandle], Awaitable[HandlerResult]]
PlainHandler = Callable[[JobRecord, LeaseHandle], HandlerResult]


class Processor(Protocol):
    """A handler as an object."""

    def process(
        self, job: JobRecord, lease: LeaseHandle
    ) -> HandlerResult | Awaitable[HandlerResult]:
        """Process one job; may be ``async def`` or plain."""
        ...


Handler = AsyncHandler | PlainHandler | Processor
"""``async def``, a plain function (run in a worker thread), or an object with ``process``."""


def check_handler(handler: Handler, executor: ExecutorOrFactory | None) -> Callable[..., object]:
    """The function to call for each job; refuses one that cannot be called, or not there."""
    call = _callable(handler)
    if executor is not None:
        check_executor(executor)
        if _is_async(call):
            raise InvalidArgument("an async handler runs on the event loop; drop executor=")
        check_portable(call, executor)
    return call


def is_async(handler: Handler) -> bool:
    """Whether a handler, which was checked, runs on the event loop."""
    return _is_async(_callable(handler))


def as_async(handler: Handler, pool: Pool | None, concurrency: int, clock: Clock) -> AsyncHandler:
    """The handler, which was checked, as a coroutine function, wherever it really runs."""
    call = _callable(handler)
    if _is_async(call):
        return cast("AsyncHandler", call)
    if pool is not None:
        return partial(_in_executor, clock, pool, call)
    return partial(_in_thread, clock, anyio.CapacityLimiter(concurrency), call)


def returned(value: object) -> HandlerResult:
    """The result of a handler, or an error that says what it may return."""
    if value is None or isinstance(value, SettlementEffects):
        return value
    remedy = "to keep a value, return SettlementEffects(kv_writes=...)"
    if inspect.isawaitable(value):
        remedy = "await it in the handler"
    if inspect.iscoroutine(value):
        # Nobody will await it, and the loop would report that.
        value.close()
    raise InvalidArgumentType(
        f"a handler must return None or SettlementEffects, not {type(value).__name__}: {remedy}"
    )


def same_handler(one: object, other: object) -> bool:
    """Whether two handlers do the same with a job, as far as can be told by comparing them."""
    return _equal(one, other) or _equal(_parts(one), _parts(other))


def refuse_others(queue: str, handler: object, others: Iterable[object]) -> None:
    """Refuse to serve a queue beside another handler, which each would take jobs from.

    Args:
        queue: Name of the queue.
        handler: What is to serve it.
        others: What serves it in this process already.
    """
    for other in others:
        if not same_handler(other, handler):
            raise InvalidArgument(
                f"queue {queue!r} is already served in this process by {shown(other)}, "
                "and each handler would take the other's jobs: use another queue for one of "
                "them, or pass the same handler to both"
            )


def _parts(handler: object) -> object:
    """What a handler can be compared by if it compares by identity, as partials do."""
    if not isinstance(handler, partial):
        return _process(handler)
    whole = cast("partial[object]", handler)
    return _parts(whole.func), whole.args, whole.keywords


def _equal(one: object, other: object) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:
        # Such as arrays do, whose comparison has no single answer.
        return False


def _process(handler: object) -> object:
    return getattr(handler, "process", handler)


def _callable(handler: object) -> Callable[..., object]:
    if isinstance(handler, type):
        raise InvalidArgumentType(
            f"the handler {handler.__qualname__} is a class: pass an object of it"
        )
    if inspect.iscoroutine(handler):
        handler.close()
        raise InvalidArgumentType(
            f"the handler is what {handler.__qualname__}() returned: pass the function, uncalled"
        )
    runs_in: object = getattr(type(handler), "_taquba_runs_in", None)
    if isinstance(runs_in, str):
        raise InvalidArgumentType(f"{shown(handler)} is not a handler: it runs in {runs_in}")
    call = _process(handler)
    if not callable(call):
        raise InvalidArgumentType(
            f"a handler must be a function (job, lease) or an object with process(job, lease), "
            f"not {shown(handler)}"
        )
    if _is(inspect.isgeneratorfunction, call) or _is(inspect.isasyncgenfunction, call):
        raise InvalidArgumentType(
            f"the handler {shown(handler)} is a generator, whose code would never run: "
            "it must not yield"
        )
    try:
        # The signature of the call itself: a decorator may pass more to the function that it wraps.
        signature = inspect.signature(call, follow_wrapped=False)
    except (TypeError, ValueError):
        # For some functions written in C it is not known.
        return call
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise InvalidArgumentType(
            f"a handler is called as handler(job, lease), which does not fit "
            f"{shown(handler)} with its {signature}: {error}"
        ) from None
    return call


def _is_async(call: object) -> bool:
    return _is(inspect.iscoroutinefunction, call)


def _is(kind: Callable[[object], bool], call: object) -> bool:
    while isinstance(call, partial):
        call = call.func
    # Or it is an object whose class defines how it is called.
    return kind(call) or kind(getattr(call, "__call__", None))  # noqa: B004


async def _in_thread(
    clock: Clock,
    threads: anyio.CapacityLimiter,
    call: Callable[..., object],
    job: JobRecord,
    lease: LeaseHandle,
) -> HandlerResult:
    result = await PlainCall(clock).in_thread(threads, call, job, lease)
    # A lambda or a decorated function does not show that it returns an awaitable.
    return cast("HandlerResult", await result if inspect.isawaitable(result) else result)


async def _in_executor(
    clock: Clock,
    pool: Pool,
    call: Callable[..., object],
    job: JobRecord,
    lease: LeaseHandle,
) -> HandlerResult:
    work = PlainCall(clock, lease)
    result = await work.in_executor(pool, _checked, os.getpid(), call, job, lease)
    return cast("HandlerResult", await result if inspect.isawaitable(result) else result)


def _checked(owner: int, call: Callable[..., object], job: JobRecord, lease: LeaseHandle) -> object:
    """Call a handler; an awaitable that it returns cannot leave another process."""
    result = call(job, lease)
    if os.getpid() != owner and inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InvalidArgumentType(
            f"the handler returned an awaitable, {shown(result)}, in another process: "
            "an async handler runs on the event loop; drop executor="
        )
    return result
