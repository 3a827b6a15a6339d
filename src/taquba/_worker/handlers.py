"""Handlers: the forms a user may write them in, as one async call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol, cast

import anyio
import anyio.to_thread

from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba._model.options import SettlementEffects
from taquba._model.records import JobRecord
from taquba._worker.lease_handle import LeaseHandle

HandlerResult = SettlementEffects | None
"""What a handler returns: effects to apply with the ack, or None."""

AsyncHandler = Callable[[JobRecord, LeaseHandle], Awaitable[HandlerResult]]
PlainHandler = Callable[[JobRecord, LeaseHandle], HandlerResult]


class Processor(Protocol):
    """A handler as an object."""

    def process(
        self, job: JobRecord, lease: LeaseHandle
    ) -> HandlerResult | Awaitable[HandlerResult]:
        """Work on one job; may be ``async def`` or plain."""
        ...


Handler = AsyncHandler | PlainHandler | Processor
"""``async def``, a plain function (run in a worker thread), or an object with ``process``."""


def as_async(handler: Handler, executor: Executor | None, concurrency: int) -> AsyncHandler:
    """The handler as a coroutine function, wherever it really runs."""
    call: object = getattr(handler, "process", handler)
    if not callable(call):
        raise InvalidArgumentType(
            f"a handler is a function (job, lease) or an object with process(job, lease), "
            f"not {handler!r}"
        )
    if executor is not None and not isinstance(executor, Executor):
        raise InvalidArgumentType(
            f"executor must be a concurrent.futures.Executor, not {executor!r}"
        )
    if _is_async(call):
        if executor is not None:
            raise InvalidArgument("an async handler runs on the event loop; drop executor=")
        return cast("AsyncHandler", call)
    plain = cast("PlainHandler", call)
    if executor is not None:
        return partial(_in_executor, executor, plain)
    return partial(_in_thread, anyio.CapacityLimiter(concurrency), plain)


def _is_async(call: Any) -> bool:
    while isinstance(call, partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - an instance with an async __call__
    )


async def _in_thread(
    limiter: anyio.CapacityLimiter, call: PlainHandler, job: JobRecord, lease: LeaseHandle
) -> HandlerResult:
    # A thread cannot be stopped: on a time-out it is left behind and its result is ignored.
    result = await anyio.to_thread.run_sync(
        call, job, lease, limiter=limiter, abandon_on_cancel=True
    )
    # A lambda or a decorated function does not show that it returns something to be awaited.
    return await result if inspect.isawaitable(result) else result


async def _in_executor(
    executor: Executor, call: PlainHandler, job: JobRecord, lease: LeaseHandle
) -> HandlerResult:
    return await asyncio.wrap_future(executor.submit(call, job, lease))
