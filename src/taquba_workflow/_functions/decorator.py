"""`workflow`: makes an async function durable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from taquba_workflow._functions.context import WorkflowContext
from taquba_workflow._functions.definitions import Workflow

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class WorkflowFunction(Workflow[P, T_co]):
    """A workflow that can still be called as the function from which it was made."""

    def __call__(self, ctx: WorkflowContext, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T_co]:
        """Call the function itself, as part of another one and with its context."""
        return self.function(ctx, *args, **kwargs)


class WorkflowDecorator(Protocol):
    """The decorator that `workflow` returns, for an ``async def``."""

    def __call__(
        self, function: Callable[Concatenate[WorkflowContext, P], Awaitable[T]], /
    ) -> WorkflowFunction[P, T]: ...


def workflow(*, name: str, version: int = 1) -> WorkflowDecorator:
    """Make an async function durable.

        @workflow(name="order")
        async def order(ctx: WorkflowContext, order_id: str) -> Receipt: ...

    The function runs again from its beginning whenever it continues, and gets the recorded results
    of the calls that it has already made. So it must make the same calls again: anything
    non-deterministic (the time, random numbers, I/O) belongs in steps, or must come from its
    context.

    Args:
        name: Its name in the store, 1 to 128 characters of ``[A-Za-z0-9_.:-]``. Keep it when the
            function moves.
        version: Raise it when older programs must not continue runs that this function begins,
            while a new program is being rolled out.

    Raises:
        InvalidArgument: A value cannot be used.
    """

    def decorate(function: Callable[..., object]) -> WorkflowFunction[..., object]:
        return WorkflowFunction(function, name=name, version=version)

    return cast("WorkflowDecorator", decorate)
