"""The pytest plugin: fixtures `mock_clock`, `queue` and `open_queue`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar, cast

import pytest

from taquba import Queue
from taquba.testing import MockClock, OpenQueue

F = TypeVar("F", bound=Callable[..., object])


def async_fixture(function: F) -> F:
    """Mark an async fixture for whichever plugin runs the tests.

    pytest-asyncio in strict mode runs only fixtures marked as its own; anyio's plugin runs plain
    ones.
    """
    try:
        import pytest_asyncio
    except ImportError:
        return cast("F", pytest.fixture(function))
    return cast("F", cast("Any", pytest_asyncio).fixture(function))


@pytest.fixture
def mock_clock() -> MockClock:
    """A clock that moves only by ``await mock_clock.advance(seconds)``."""
    return MockClock()


@async_fixture
async def open_queue(
    mock_clock: MockClock,
) -> AsyncIterator[OpenQueue]:
    """A factory that accepts the arguments of `Queue.open`; memory and the mock clock by default.

    Its queues are closed at the end of the test.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(url: str = "memory://", **options: Any) -> Queue:
            options.setdefault("clock", mock_clock)
            return await stack.enter_async_context(await Queue.open(url, **options))

        yield open_one


@async_fixture
async def queue(open_queue: OpenQueue) -> Queue:
    """A queue on a fresh memory store and the mock clock."""
    return await open_queue()
