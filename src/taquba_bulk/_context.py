"""What a pipeline gets: its input, and what it can have remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Generic, Literal, TypeVar, overload

from taquba import CancelToken, Duration, InvalidArgument, InvalidArgumentType, LeaseHandle
from taquba_bulk._cache import CacheKey, cache_key
from taquba_bulk._costs import Costs
from taquba_bulk._paid import CallFunction, OnUnknown, Payment, Request, is_paying
from taquba_bulk._phases import Phase, Phases, by_content, codec_of, compute, named
from taquba_bulk._shared import Shared
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

    __slots__ = (
        "_phases",
        "_shared",
        "attempt",
        "cancel_token",
        "headers",
        "input",
        "lease",
        "run_id",
    )

    def __init__(self, value: In, step: Step, phases: Phases, shared: Shared) -> None:
        """Internal: pipelines are given theirs."""
        self.input = value
        self.run_id: str = step.run_id
        self.headers: Mapping[str, str] = step.headers
        self.attempt: int = step.attempts
        self.cancel_token: CancelToken = step.cancel_token
        self.lease: LeaseHandle = step.lease
        self._phases = phases
        self._shared = shared

    def record_cost(self, metric: str, amount: float) -> None:
        """Add to what the item costs, as in ``ctx.record_cost("usd", 0.002)``.

        In a phase the cost is remembered with it: it counts once, however often the item is tried.
        Outside of one it counts for the attempt that ends the item.

        Args:
            metric: What is counted.
            amount: How much, 0 or more; kept to a billionth.

        Raises:
            InvalidArgument: The batch has a budget of the metric, and no paid call is being made.
            taquba_workflow.EffectsSealed: The attempt has ended, so the cost would be lost.
        """
        if metric in self._shared.budget.metrics and not is_paying():
            raise InvalidArgument(
                f"the batch has a budget of {metric}, which only paid calls keep: "
                "make what costs it a paid_call, and record its cost there"
            )
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
        codec = codec_of(type)
        return await self._phases.remembered(named("k", key), partial(compute, fn, codec), codec)

    async def memoized_by_content(
        self,
        value: object,
        fn: Phase[T],
        *,
        type: type[T] | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
    ) -> T:
        """What `fn` returns; it is called once for the item and an equal `value`.

        Args:
            value: All that the outcome depends on: anything that can be written as JSON.
            fn: Called without arguments and awaited.
            type: As for `memoized`.
            cache: Name of a cache that all batches of the store share: an outcome that another
                item has found is used, and costs nothing. None keeps it to the item.
            ttl: How long others may use it, seconds or `timedelta`; None for ever. Only with
                `cache`.
        """
        content, codec = by_content(value), codec_of(type)
        make = partial(compute, fn, codec)
        cached = _cached(cache, content, ttl)
        if cached is not None:
            make = partial(self._shared.cache.through, cached, make, codec)
        return await self._phases.remembered(f"c/{content}", make, codec)

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
        self,
        value: object,
        fn: Priced[T],
        *,
        type: type[T] | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
    ) -> T:
        """`memoized_by_content`, for a function that returns its value and what it cost."""
        return await self.memoized_by_content(
            value, self._recording(fn), type=type, cache=cache, ttl=ttl
        )

    @overload
    async def paid_call(
        self,
        key: str,
        fn: CallFunction[T],
        *,
        reserve: Mapping[str, float] | None = None,
        on_unknown: Literal["retry"] | CallFunction[T] = "retry",
        rate: str | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
        type: type[T] | None = None,
    ) -> T: ...
    @overload
    async def paid_call(
        self,
        key: str,
        fn: CallFunction[T],
        *,
        reserve: Mapping[str, float] | None = None,
        on_unknown: Literal["skip"],
        rate: str | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
        type: type[T] | None = None,
    ) -> T | None: ...
    async def paid_call(
        self,
        key: str,
        fn: CallFunction[T],
        *,
        reserve: Mapping[str, float] | None = None,
        on_unknown: OnUnknown[T] = "retry",
        rate: str | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
        type: type[T] | None = None,
    ) -> T | None:
        """What `fn` returns: a phase whose call must not be repeated lightly.

        That the call is being made is durable before it, and its result after it. What
        `record_cost` is told while `fn` runs is what the call cost; of a metric that it says
        nothing about, what was reserved.

        Where an earlier attempt at the call has no result, because its process died or `fn`
        raised, nobody knows whether it was made: `on_unknown` says what to do. Only
        `taquba.RetryAfter` tells that it was not.

        Args:
            key: As for `memoized`.
            fn: Called with a `PaidCall` and awaited.
            reserve: What the call may cost at most, by metric. Has to name every metric that the
                batch has a budget of. The call waits, or the batch is stopped, where the budget
                does not allow it.
            on_unknown: ``"retry"`` makes the call again, with the same idempotency key.
                ``"skip"`` does not: the result is None, and what was reserved counts as its cost.
                A function is called instead of `fn`, to find out from the callee what has become
                of it, or to make it.
            rate: Key of a rate limit of the batch to be waited for before the call.
            cache: Name of a cache that all batches of the store share; `key` has to say all that
                the result depends on, then. A result that is found costs nothing.
            ttl: How long others may use the result, seconds or `timedelta`; None for ever. Only
                with `cache`.
            type: As for `memoized`.

        Raises:
            InvalidArgument: `reserve` lacks a metric, or `rate` is no rate limit of the batch.
        """
        if not callable(on_unknown) and on_unknown not in ("retry", "skip"):
            raise InvalidArgumentType(
                f"on_unknown must be 'retry', 'skip' or a function, not {on_unknown!r}"
            )
        request = Request(
            key,
            fn,
            on_unknown,
            Costs.of(reserve or {}, "reserve"),
            rate,
            _cached(cache, key, ttl),
            codec_of(type),
        )
        return await Payment(self.run_id, self._phases, self._shared, request).result()

    async def acquire(self, rate: str) -> None:
        """Wait until a rate limit of the batch allows one more, in the order of the calls.

        An item that raises `taquba.RetryAfter` afterwards pauses the rate limit that it has asked
        last for that long, and is tried again then, its attempt not spent.

        Args:
            rate: Key of the rate limit.
        """
        await self._phases.acquire(self._shared.rates.limit(rate))

    def _recording(self, fn: Priced[T]) -> Phase[T]:
        async def phase() -> T:
            value, costs = await fn()
            for metric, amount in costs.items():
                self.record_cost(metric, amount)
            return value

        return phase


def _cached(cache: str | None, content: str, ttl: Duration | None) -> CacheKey | None:
    """The entry of a cache, where one is named."""
    if cache is not None:
        return cache_key(cache, content, ttl)
    if ttl is not None:
        raise InvalidArgument(
            "ttl says for how long others may use what is in a cache: name the cache as well, as "
            "in cache='summaries', or leave it out"
        )
    return None
