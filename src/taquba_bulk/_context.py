"""What a pipeline gets: its input, and what it can have remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from taquba import CancelToken, LeaseHandle
from taquba_bulk._phases import Phase, Phases, by_content, codec_of, named
from taquba_workflow import Step

In = TypeVar("In")
T = TypeVar("T")

Priced = Callable[[], Awaitable[tuple[T, Mapping[str, float]]]]
"""A phase that returns its value and what it cost, by metric."""


class BulkContext(Generic[In]):
    """One attempt at one item, as its pipeline sees it.

    A pipeline runs at least once for each item, until it returns or its attempts are used up. What
    it has remembered with `memoized` is not done again by the next attempt, or after a restart.

    Attributes:
        input: The input.
        run_id: The item's id, made of its key.
        headers: The batch's headers.
        attempt: Which attempt this is, from 1.
        cancel_token: Fires when the item is asked to cancel; stop, and return or raise anything.
        lease: The hold on the item; it is kept while the pipeline runs.
    """

    __slots__ = ("_phases", "attempt", "cancel_token", "headers", "input", "lease", "run_id")

    def __init__(self, value: In, step: Step, phases: Phases) -> None:
        """Internal: pipelines are given theirs."""
        self.input = value
        self.run_id: str = step.run_id
        self.headers: Mapping[str, str] = step.headers
        self.attempt: int = step.attempts
        self.cancel_token: CancelToken = step.cancel_token
        self.lease: LeaseHandle = step.lease
        self._phases = phases

    def record_cost(self, metric: str, amount: float) -> None:
        """Add to what the item costs, as in ``ctx.record_cost("usd", 0.002)``.

        In a phase the cost is remembered with it: it counts once, however often the item is tried.
        Outside of one it counts for the attempt that ends the item.

        Args:
            metric: What is counted.
            amount: How much, 0 or more; kept to a billionth.
        """
        self._phases.spending().add(metric, amount)

    async def memoized(self, key: str, fn: Phase[T], *, type: type[T] | None = None) -> T:
        """What `fn` returns; it is called once for the item, and remembered by `key`.

        Durable on return. A process that dies in between calls `fn` again. The value that is
        returned has been stored and read, the first time as well: without `type` it should be made
        of None, bool, int, float, str, bytes, list, tuple and dict; dataclasses, models and dates
        come back as themselves where `type` says so.

        Args:
            key: Name of the phase, 1 to 1000 UTF-8 bytes, one for each phase of an item.
            fn: Called without arguments and awaited.
            type: The type of the value, as pydantic reads it.

        Raises:
            InvalidArgument: The value cannot be stored; the item fails.
        """
        return await self._phases.remembered(named("k", key), fn, codec_of(type))

    async def memoized_by_content(
        self, value: object, fn: Phase[T], *, type: type[T] | None = None
    ) -> T:
        """What `fn` returns; it is called once for the item and an equal `value`.

        Args:
            value: All that the outcome depends on: anything that can be written as JSON.
            fn: Called without arguments and awaited.
            type: As for `memoized`.
        """
        return await self._phases.remembered(f"c/{by_content(value)}", fn, codec_of(type))

    async def memoized_with_cost(
        self, key: str, fn: Priced[T], *, type: type[T] | None = None
    ) -> T:
        """`memoized`, for a function that returns its value and what it cost.

        Args:
            key: As for `memoized`.
            fn: Returns a pair: the value, and its costs by metric.
            type: As for `memoized`.
        """
        return await self.memoized(key, self._recording(fn), type=type)

    async def memoized_by_content_with_cost(
        self, value: object, fn: Priced[T], *, type: type[T] | None = None
    ) -> T:
        """`memoized_by_content`, for a function that returns its value and what it cost."""
        return await self.memoized_by_content(value, self._recording(fn), type=type)

    def _recording(self, fn: Priced[T]) -> Phase[T]:
        async def phase() -> T:
            value, costs = await fn()
            for metric, amount in costs.items():
                self.record_cost(metric, amount)
            return value

        return phase
