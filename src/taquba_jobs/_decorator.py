"""`job`: makes a function a job."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast, overload

from pydantic import TypeAdapter

from taquba import Duration, InvalidArgumentType
from taquba.extending.typed import digest, fingerprint
from taquba_jobs._context import JobContext
from taquba_jobs._job import Job, Upcast

P = ParamSpec("P")
S_contra = TypeVar("S_contra", contravariant=True)
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class AsyncJob(Job[S_contra, P, T_co]):
    """A job whose function is ``async def``."""

    def __call__(
        self, ctx: JobContext[S_contra], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T_co]:
        """Call the function itself, here and now."""
        return cast("Awaitable[T_co]", self.function(ctx, *args, **kwargs))


class PlainJob(Job[S_contra, P, T_co]):
    """A job whose function is a plain one: it runs in a thread, or in an executor."""

    def __call__(self, ctx: JobContext[S_contra], *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function itself, here and now."""
        return cast("T_co", self.function(ctx, *args, **kwargs))


class JobDecorator(Protocol):
    """The decorator that `job` returns."""

    # A function that returns an awaitable is async: the first overload that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[JobContext[S], P], Awaitable[T]], /
    ) -> AsyncJob[S, P, T]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext[S], P], T], /
    ) -> PlainJob[S, P, T]: ...


def job(
    *,
    name: str,
    max_attempts: int | None = None,
    idempotency_key: Callable[..., str | None] | None = None,
    version: int = 1,
    upcast: Mapping[int, Upcast] | None = None,
    queue: str | None = None,
    timeout: Duration | None = None,
    priority: int | None = None,
) -> JobDecorator:
    """Make a function a job.

        @job(name="email.send", max_attempts=5)
        async def send_email(ctx: JobContext, to: str, subject: str) -> str: ...

    The function's first parameter is its context. The other arguments and the result are stored by
    pydantic, according to their annotations. ``async def`` runs on the event loop; a plain function
    runs in a thread, or in the runner's executor.

    Args:
        name: The job's name in the store, 1 to 128 characters of ``[A-Za-z0-9_.:-]``. Waiting jobs
            are found by it: keep it when the function moves.
        max_attempts: Attempts before the job has failed; default: its queue's.
        idempotency_key: Called with the job's arguments (without the context); returns a text that
            identifies the job, or None for a job that is always new. See `JobRunner.submit`.
        version: Raise it when the arguments change so that stored ones no longer fit. A runner
            leaves jobs of a newer version to a newer program.
        upcast: For each older version, a function that turns its arguments into those of the next.
        queue: Name of a queue of its own; default: the runner's. A queue belongs to one runner.
        timeout: How long an attempt may take, seconds on the queue's clock.
        priority: Unsigned 32-bit; lower first; default: its queue's.

    Raises:
        InvalidArgument: A value cannot be used.
    """

    def decorate(function: Callable[..., object]) -> Job[object, ..., object]:
        if not inspect.isroutine(function):
            raise InvalidArgumentType(f"a job must be made from a function, not from {function!r}")
        kind: type[Job[object, ..., object]] = (
            AsyncJob if inspect.iscoroutinefunction(function) else PlainJob
        )
        return kind(  # pyright: ignore[reportUnknownVariableType] - the decorator's type says more
            function,
            name=name,
            version=version,
            upcast=upcast or {},
            idempotency_key=idempotency_key,
            queue=queue,
            max_attempts=max_attempts,
            priority=priority,
            timeout=timeout,
        )

    return cast("JobDecorator", decorate)


def payload_idempotency_key(*args: object, **kwargs: object) -> str:
    """Return an idempotency key by which equal arguments mean the same job.

        @job(name="thumbnail", idempotency_key=payload_idempotency_key)

    Returns:
        SHA-256 of the arguments' MessagePack form, in hex.
    """
    try:
        return fingerprint(_ANYTHING.dump_python([args, kwargs])).hex()
    except ValueError:
        # A part of them can be written only by its annotation.
        return digest([args, kwargs]).hex()
