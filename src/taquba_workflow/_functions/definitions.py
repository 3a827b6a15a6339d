"""Functions as workflows, and as steps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, ParamSpec, TypeVar, cast

from taquba import Duration, InvalidArgument, InvalidArgumentType
from taquba.extending.checks import (
    at_least_one,
    duration_ms,
    makes_coroutines,
    yields_nothing,
)
from taquba.extending.typed import Signature, Undecodable, pack, unpack
from taquba_workflow import _values

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., object])

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OPTIONS: Final = "__taquba_step__"
_PAIR: Final = b"\x92"
"""How MessagePack begins a list of two."""


# -- workflows ----------------------------------------------------------------------------------


class Workflow(Generic[P, T_co]):
    """A durable function; `workflow` makes it, `WorkflowRuntime.start` starts it.

    Attributes:
        name: Its name in the store.
        version: Its version; programs with an older one leave its runs alone.
    """

    _taquba_runs_in: Final = "a WorkflowRuntime(queue, workflows=[...])"
    """What a worker loop suggests if it gets one as a handler."""

    def __init__(self, function: Callable[..., object], *, name: str, version: int) -> None:
        """Internal: use the decorator `workflow`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"a workflow's name must be 1 to 128 characters of [A-Za-z0-9_.:-]; got {name!r}"
            )
        if not makes_coroutines(function):
            raise InvalidArgumentType(
                f"a workflow must be made from an `async def`, not from {function!r}; a decorator "
                "around one must use functools.wraps"
            )
        at_least_one(version, f"the version of workflow {name!r}")
        self.name = name
        self.version = version
        self.function = cast("Callable[..., Awaitable[T_co]]", function)
        self.signature = Signature(f"workflow {name!r}", function, context="WorkflowContext")
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}>"

    def input(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """The input with which a run of this function is submitted."""
        values = self.signature.pack(self.signature.bind(args, kwargs))
        return _PAIR + pack(self.name) + values

    def arguments(self, input: bytes) -> dict[str, Any]:
        """The arguments in the input of a run; raises `Undecodable`."""
        match unpack(input):
            case [self.name, dict() as values]:  # pyright: ignore[reportUnknownVariableType]
                return self.signature.decode(cast("dict[str, object]", values))
            case _:
                raise Undecodable(f"it is not an input of workflow {self.name!r}")


# -- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """Name and retries of a step.

    Attributes:
        name: Its name in the history; the function's name by default. A running workflow expects
            the same name, so keep it when the function is renamed.
        max_attempts: Attempts before the step has failed.
        backoff: Wait after the first failed attempt, seconds; it doubles with each further one.
        backoff_max: The longest wait, seconds.
    """

    name: str | None = None
    max_attempts: int = 3
    backoff: Duration = 1
    backoff_max: Duration = 300

    def __post_init__(self) -> None:
        if self.name is not None:
            _values.name(self.name, "a step's name")
        at_least_one(self.max_attempts, "max_attempts")
        duration_ms(self.backoff, "backoff")
        duration_ms(self.backoff_max, "backoff_max")

    def wait_ms(self, failed: int) -> int:
        """How long to wait after this number of failed attempts."""
        first = duration_ms(self.backoff, "backoff")
        longest = duration_ms(self.backoff_max, "backoff_max")
        return min(first << min(failed - 1, 40), longest)


_DEFAULTS: Final = StepOptions()


def step(
    *,
    name: str | None = None,
    max_attempts: int = 3,
    backoff: Duration = 1,
    backoff_max: Duration = 300,
) -> Callable[[F], F]:
    """Set how a function is retried when a workflow calls it as a step; see `StepOptions`.

        @step(max_attempts=5, backoff=2)
        async def charge_card(order_id: str) -> str: ...

    The function itself does not change. Functions without this decorator can also be steps, with
    the defaults.
    """
    options = StepOptions(
        name=name, max_attempts=max_attempts, backoff=backoff, backoff_max=backoff_max
    )

    def decorate(function: F) -> F:
        setattr(function, _OPTIONS, options)
        return function

    return decorate


class StepFunction(NamedTuple):
    """A function with its options as a step."""

    name: str
    options: StepOptions
    function: Callable[..., object]
    signature: Signature
    is_async: bool


@lru_cache(maxsize=1024)
def step_function(function: Callable[..., object], options: StepOptions | None) -> StepFunction:
    """A function as a step.

    Raises:
        InvalidArgumentType: It is not a function, or has no name.
        InvalidArgument: Values of an annotation cannot be stored.
    """
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise InvalidArgumentType(
            f"a step must be a function or a method, not {function!r}: wrap it in a `def`"
        )
    yields_nothing(function, "a step")
    own: StepOptions = getattr(function, _OPTIONS, _DEFAULTS)
    chosen = own if options is None else options
    name = chosen.name or own.name or function.__name__
    if name == "<lambda>":
        raise InvalidArgumentType("a lambda has no name that a history could keep: use a `def`")
    signature = Signature(f"step {name!r}", function)
    # Check before it is called: its result could not be recorded.
    signature.resolve()
    return StepFunction(
        name,
        chosen,
        function,
        signature,
        inspect.iscoroutinefunction(function),
    )
