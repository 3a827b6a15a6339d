"""A pipeline: the function, and the types of its inputs and outputs."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from taquba import InvalidArgument, InvalidArgumentType
from taquba.extending.checks import makes_coroutines, written_function
from taquba.extending.typed import Codec
from taquba_bulk._codec import codec_for
from taquba_bulk._context import BulkContext

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class PipelineObject(Protocol[In, Out_co]):
    """A pipeline as an object."""

    async def run(self, ctx: BulkContext[In], /) -> Out_co:
        """Process one item."""
        ...


PipelineFunction = Callable[[BulkContext[In]], Awaitable[Out]]

Pipeline = PipelineFunction[In, Out] | PipelineObject[In, Out]
"""``async def run(ctx: BulkContext[In]) -> Out``, or an object with such a method."""


class TypedPipeline(Generic[In, Out]):
    """A pipeline that can be called, with the codecs of its annotations."""

    def __init__(self, pipeline: Pipeline[In, Out]) -> None:
        run: object = getattr(pipeline, "run", pipeline)
        if not makes_coroutines(run):
            raise InvalidArgumentType(
                "a pipeline must be `async def run(ctx)`, a function or a method of an object, "
                f"not {pipeline!r}; a decorator around one must use functools.wraps"
            )
        self.call = cast("PipelineFunction[In, Out]", run)
        given, returned = _annotated(run)
        self.inputs: Codec[In] = codec_for(given, "the input")
        self.outputs: Codec[Out] = codec_for(returned, "the output")


def _annotated(run: Any) -> tuple[Any, Any]:
    """Types of input and output; Any without an annotation."""
    parameters = list(inspect.signature(run).parameters)
    if not parameters:
        raise InvalidArgumentType("a pipeline takes its context: async def run(ctx)")
    function = written_function(run)
    if function is None:
        return Any, Any
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidArgument(
            f"an annotation of the pipeline {function.__qualname__} cannot be read: {error}; "
            "define or import its names at the top of its module"
        ) from None
    context: Any = hints.get(parameters[0], Any)
    (given,) = get_args(context) if get_origin(context) is BulkContext else (Any,)
    returned: Any = hints.get("return", Any)
    return _known(given), _known(returned)


def _known(hint: Any) -> Any:
    return Any if isinstance(hint, TypeVar) else hint
