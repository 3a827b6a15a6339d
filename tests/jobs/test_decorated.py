"""Functions under decorators, and functions of the wrong kind: they run, or are refused early."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taquba import InvalidArgument, InvalidArgumentType, Queue
from taquba_jobs import JobContext, JobFailed, JobRunner, job


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them: plain, whatever it decorates."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


@job(name="double", max_attempts=1)
@timed
async def double(ctx: JobContext, number: int) -> int:
    return 2 * number


async def test_a_plain_decorator_around_an_async_function_is_awaited(queue: Queue) -> None:
    async with JobRunner(queue, jobs=[double]) as runner:
        assert await (await runner.submit(double, 3)).join(10) == 6


async def test_in_an_executor_it_fails_at_once_and_says_why(queue: Queue) -> None:
    with ThreadPoolExecutor(1) as pool:
        async with JobRunner(queue, jobs=[double], executor=pool) as runner:
            with pytest.raises(JobFailed, match="returns an awaitable, which cannot"):
                await (await runner.submit(double, 3)).join(10)


async def test_middleware_may_be_a_plain_function(queue: Queue) -> None:
    seen: list[str] = []

    def middleware(
        ctx: JobContext[Any], call_next: Callable[[JobContext[Any]], Awaitable[object]]
    ) -> Awaitable[object]:
        seen.append(ctx.name)
        return call_next(ctx)

    async with JobRunner(queue, jobs=[double], middleware=[middleware]) as runner:
        assert await (await runner.submit(double, 1)).join(10) == 2
    assert seen == ["double"]


async def numbers(ctx: JobContext) -> AsyncIterator[int]:
    yield 1


async def upcast(values: dict[str, object]) -> dict[str, object]:
    return values


async def key_of() -> str:
    return "k"


@pytest.mark.parametrize(
    ("function", "options", "why"),
    [
        (numbers, {}, "the function of job 'j' must return its result, not yield"),
        (timed(numbers), {}, "the function of job 'j' must return its result, not yield"),
        (double.function, {"idempotency_key": key_of}, "idempotency_key of job 'j'.*plain `def`"),
        (double.function, {"version": 2, "upcast": {1: upcast}}, "upcast of job 'j'.*plain `def`"),
    ],
)
def test_functions_that_could_not_run_are_refused_where_they_are_decorated(
    function: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidArgumentType, match=why):
        job(name="j", **options)(function)


async def test_classify_is_a_plain_function(queue: Queue) -> None:
    async def classify(error: Exception) -> str:
        return "permanent"

    with pytest.raises(InvalidArgumentType, match="classify is called without await"):
        JobRunner(queue, jobs=[double], classify=classify)  # type: ignore[arg-type]


async def scaled(factor: int, ctx: JobContext, number: int) -> int:
    return factor * number


class Scaling:
    async def __call__(self, ctx: JobContext, number: int) -> int:
        return 2 * number


@pytest.mark.parametrize("function", [functools.partial(scaled, 2), Scaling()])
async def test_what_a_decorator_wraps_may_be_anything_that_can_be_called(
    queue: Queue, function: Any
) -> None:
    wrapped = job(name="wrapped")(timed(function))
    async with JobRunner(queue, jobs=[wrapped]) as runner:
        assert await (await runner.submit(wrapped, 3)).join(10) == 6
        with pytest.raises(InvalidArgument, match="number"):
            await runner.submit(wrapped, "three")
