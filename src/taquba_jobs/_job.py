"""`job`: makes a function a job that can be submitted by it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from pydantic import TypeAdapter

from taquba import Duration, EnqueueRequest, InvalidArgument, InvalidArgumentType
from taquba.extending import describe
from taquba.extending.checks import duration_ms, plain_function, yields_nothing
from taquba.extending.typed import Signature, Undecodable, digest, fingerprint, unpack
from taquba_jobs._context import JobContext
from taquba_jobs._rows import submission_key

P = ParamSpec("P")
S_contra = TypeVar("S_contra", contravariant=True)
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Upcast = Callable[[dict[str, object]], dict[str, object]]
"""Turns the arguments of one version of a job, by name, into those of the next."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MAX_KEY_BYTES: Final = 1024
_MAX_VERSION: Final = 2**31 - 1
_ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class Job(Generic[S_contra, P, T_co]):
    """A function that can run in the background; made by `job`, and still callable itself.

    Attributes:
        name: Its name in the store.
        version: Version of its arguments.
        queue: Name of its own queue, if it has one.
        timeout_ms: How long an attempt may take, if that is bounded.
    """

    _taquba_runs_in: Final = "a JobRunner(queue, jobs=[...])"
    """What a worker loop says that is given one for a handler."""

    def __init__(
        self,
        function: Callable[..., object],
        *,
        name: str,
        version: int,
        upcast: Mapping[int, Upcast],
        idempotency_key: Callable[..., str | None] | None,
        queue: str | None,
        max_attempts: int | None,
        priority: int | None,
        timeout: Duration | None,
    ) -> None:
        """Internal: use the decorator `job`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"a job's name is 1 to 128 characters of [A-Za-z0-9_.:-]; got {name!r}"
            )
        self.name = name
        self.version = _version(name, version)
        self.queue = queue
        self.timeout_ms = (
            None
            if timeout is None
            else duration_ms(timeout, f"the timeout of job {name!r}", minimum=1)
        )
        self.is_async = _is_async(function)
        # Its checks are those of a submission.
        self.options = EnqueueRequest(
            queue or "jobs", b"", max_attempts=max_attempts, priority=priority
        )
        self.function = function
        yields_nothing(function, f"the function of job {name!r}")
        self._upcast = _upcasts(name, version, upcast)
        if idempotency_key is not None:
            plain_function(idempotency_key, f"the idempotency_key of job {name!r}")
        self._idempotency_key = idempotency_key
        self.signature = Signature(f"job {name!r}", function, context="JobContext")
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__wrapped__ = function

    def __reduce__(self) -> str:
        # Another process finds it where this one did: by its place in its module.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<job {self.name!r}>"

    def key_of(self, values: dict[str, object]) -> str | None:
        """Key of the row that a submission with these bound arguments holds, if it has one."""
        if self._idempotency_key is None:
            return None
        call = self.signature.call(values)
        key = self._idempotency_key(*call.args, **call.kwargs)
        if key is None:
            return None
        if not isinstance(key, str):
            raise InvalidArgumentType(
                f"the idempotency key of job {self.name!r} must be a str or None, not {key!r}"
            )
        size = len(key.encode(errors="surrogatepass"))
        if not 1 <= size <= _MAX_KEY_BYTES:
            raise InvalidArgument(
                f"the idempotency key of job {self.name!r} has 1 to {_MAX_KEY_BYTES} UTF-8 "
                f"bytes; got {size}: use a hash, as payload_idempotency_key does"
            )
        return submission_key(self.name, key)

    def decode(self, payload: bytes, version: int) -> dict[str, object]:
        """The arguments in a payload of this version or an older one."""
        values = unpack_arguments(payload)
        for old in range(version, self.version):
            upcast = self._upcast.get(old)
            if upcast is None:
                continue
            try:
                values = upcast(values)
            except Exception as error:
                raise Undecodable(
                    f"its upcast from version {old} raised {describe(error)}"
                ) from error
        return self.signature.decode(values)


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
    """What `job` returns: put it in front of a function."""

    # Whoever returns an awaitable is async: the first overload that fits counts.
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

    The function's first parameter is its context. Other arguments and the result are stored, by
    pydantic and their annotations. ``async def`` runs on the event loop; a plain function runs in
    a thread, or in the runner's executor.

    Args:
        name: The job's name in the store, 1 to 128 characters of ``[A-Za-z0-9_.:-]``. Jobs that
            wait are found by it: keep it when the function moves.
        max_attempts: Attempts before the job has failed; default: its queue's.
        idempotency_key: Called with the job's arguments (without the context); returns a text
            that tells one job from another, or None for one that is always new. See
            `JobRunner.submit`.
        version: Raise it when the arguments change so that stored ones no longer fit. A runner
            leaves jobs of a newer version to a newer program.
        upcast: For an older version, what turns its arguments into those of the next.
        queue: Name of an own queue; default: the runner's. One queue belongs to one runner.
        timeout: How long an attempt may take, seconds on the queue's clock.
        priority: Unsigned 32-bit; lower first; default: its queue's.

    Raises:
        InvalidArgument: A value cannot be used.
    """

    def decorate(function: Callable[..., object]) -> Job[object, ..., object]:
        if not inspect.isroutine(function):
            raise InvalidArgumentType(f"a job is made of a function, not of {function!r}")
        kind: type[Job[object, ..., object]] = AsyncJob if _is_async(function) else PlainJob
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
    """The idempotency key of a job for which equal arguments mean the same job.

        @job(name="thumbnail", idempotency_key=payload_idempotency_key)

    Returns:
        SHA-256 of the arguments' MessagePack form, in hex.
    """
    try:
        return fingerprint(_ANYTHING.dump_python([args, kwargs])).hex()
    except ValueError:
        # Something in them is written out by its annotation only.
        return digest([args, kwargs]).hex()


def unpack_arguments(payload: bytes) -> dict[str, object]:
    try:
        values = unpack(payload)
    except ValueError as error:
        raise Undecodable(f"the payload cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise Undecodable(
            f"the payload holds {type(values).__name__}, not the arguments of a job by name"
        )
    return cast("dict[str, object]", values)


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function)


def _version(name: str, version: int) -> int:
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidArgumentType(f"the version of job {name!r} must be an int, not {version!r}")
    if not 1 <= version <= _MAX_VERSION:
        raise InvalidArgument(f"the version of job {name!r} is 1 or more; got {version}")
    return version


def _upcasts(name: str, version: int, upcast: Mapping[int, Upcast]) -> dict[int, Upcast]:
    for old in upcast:
        if isinstance(old, bool) or not isinstance(old, int) or not 1 <= old < version:
            raise InvalidArgument(
                f"job {name!r} has version {version}: upcast takes versions before that, "
                f"from 1; got {old!r}"
            )
        plain_function(upcast[old], f"the upcast of job {name!r} from version {old}")
    return dict(upcast)
