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
    """A workflow, and still the function that it was made of: what `workflow` makes."""

    def __call__(self, ctx: WorkflowContext, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T_co]:
        """Call the function itself, as a part of another one and with its context."""
        return self.function(ctx, *args, **kwargs)


class WorkflowDecorator(Protocol):
    """What `workflow` returns: put it in front of an ``async def``."""

    def __call__(
        self, function: Callable[Concatenate[WorkflowContext, P], Awaitable[T]], /
    ) -> WorkflowFunction[P, T]: ...


def workflow(*, name: str, version: int = 1) -> WorkflowDecorator:
    """Make an async function durable.

        @workflow(name="order")
        async def order(ctx: WorkflowContext, order_id: str) -> Receipt: ...

    The function is run again from its beginning whenever it goes on, and finds the results of what
    it has done already. So it has to make the same calls again: everything that may come out
    differently (the time, chance, I/O) belongs into steps, or comes from its context.

    Args:
        name: Its name in the store, 1 to 128 characters of ``[A-Za-z0-9_.:-]``. Keep it when the
            function moves.
        version: Raise it when runs that this function begins must not be gone on with by older
            programs, while a new one is being rolled out.

    Raises:
        InvalidArgument: A value cannot be used.
    """

    def decorate(function: Callable[..., object]) -> WorkflowFunction[..., object]:
        return WorkflowFunction(function, name=name, version=version)

    return cast("WorkflowDecorator", decorate)
