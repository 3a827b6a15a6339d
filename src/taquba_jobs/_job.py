"""`Job`: a job's function, its options, and its arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Final, Generic, ParamSpec, TypeVar, cast

from taquba import Duration, EnqueueRequest, InvalidArgument, InvalidArgumentType
from taquba.extending import describe
from taquba.extending.checks import duration_ms, plain_function, yields_nothing
from taquba.extending.typed import Signature, Undecodable, unpack
from taquba_jobs._rows import submission_key

P = ParamSpec("P")
S_contra = TypeVar("S_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)

Upcast = Callable[[dict[str, object]], dict[str, object]]
"""Turns the arguments of one version of a job, by name, into those of the next."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MAX_KEY_BYTES: Final = 1024
_MAX_VERSION: Final = 2**31 - 1


class Job(Generic[S_contra, P, T_co]):
    """A function that can run in the background; made by `job`, and still callable itself.

    Attributes:
        name: Its name in the store.
        version: Version of its arguments.
        queue: Name of its own queue, if it has one.
        timeout_ms: How long an attempt may take, if that is limited.
    """

    _taquba_runs_in: Final = "a JobRunner(queue, jobs=[...])"
    """What a worker loop suggests if it gets one as a handler."""

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
                f"a job's name must be 1 to 128 characters of [A-Za-z0-9_.:-]; got {name!r}"
            )
        self.name = name
        self.version = _version(name, version)
        self.queue = queue
        self.timeout_ms = (
            None
            if timeout is None
            else duration_ms(timeout, f"the timeout of job {name!r}", minimum=1)
        )
        self.is_async = inspect.iscoroutinefunction(function)
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
        # Another process finds it by its name in its module, as this one did.
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
                f"the idempotency key of job {self.name!r} must have 1 to {_MAX_KEY_BYTES} UTF-8 "
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


def _version(name: str, version: int) -> int:
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidArgumentType(f"the version of job {name!r} must be an int, not {version!r}")
    if not 1 <= version <= _MAX_VERSION:
        raise InvalidArgument(f"the version of job {name!r} must be 1 or more; got {version}")
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
