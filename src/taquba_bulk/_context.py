"""`BulkContext`: the input of a pipeline, and the results that it can remember."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Generic, Literal, TypeVar, overload

from taquba import CancelToken, Duration, InvalidArgument, InvalidArgumentType, LeaseHandle
from taquba.extending.typed import Codec
from taquba_bulk._cache import CacheKey, cache_key
from taquba_bulk._costs import Costs
from taquba_bulk._paid import CallFunction, OnUnknown, Payment, Request, is_paying
from taquba_bulk._phases import Phase, Phases, by_content, codec_of, compute, named
from taquba_bulk._running import RUN_HEADER
from taquba_bulk._shared import Shared
from taquba_workflow import Step

In = TypeVar("In")
T = TypeVar("T")

Priced = Callable[[], Awaitable[tuple[T, Mapping[str, float]]]]
"""A phase that returns its value and its costs by metric."""


class BulkContext(Generic[In]):
    """One attempt at one item, as its pipeline sees it.

    A pipeline runs at least once for each item, until it returns or its attempts are used up. Work
    that it has remembered with `memoized` is not repeated by the next attempt, or after a restart.

    Attributes:
        input: The input.
        run_id: The item's id, made from its key.
        headers: The batch's headers.
        attempt: Which attempt this is, from 1.
        cancel_token: Fires when the item is asked to cancel; stop, and return or raise anything.
        lease: The lease of the item; it is renewed while the pipeline runs.
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
        """Internal: pipelines receive theirs."""
        self.input = value
        self.run_id: str = step.run_id
        headers = dict(step.headers)
        headers.pop(RUN_HEADER, None)
        self.headers: Mapping[str, str] = headers
        self.attempt: int = step.attempts
        self.cancel_token: CancelToken = step.cancel_token
        self.lease: LeaseHandle = step.lease
        self._phases = phases
        self._shared = shared

    def record_cost(self, metric: str, amount: float) -> None:
        """Add to the cost of the item, as in ``ctx.record_cost("usd", 0.002)``.

        In a phase, the cost is remembered with the phase: it counts once, however often the item is
        tried. Outside of a phase, it counts for the attempt that ends the item.

        Args:
            metric: The unit, such as ``usd``.
            amount: How much, 0 or more; kept to a billionth.

        Raises:
            InvalidArgument: The batch has a budget of the metric, and no paid call is being made.
            taquba_workflow.EffectsSealed: The attempt has ended, so the cost would be lost.
        """
        if metric in self._shared.budget.metrics and not is_paying():
            raise InvalidArgument(
                f"the batch has a budget of {metric}, which only paid calls respect: "
                "make the call with paid_call, and record its cost there"
            )
        self._phases.spending().add(metric, amount)

    async def memoized(self, key: str, fn: Phase[T], *, type: type[T] | None = None) -> T:
        """Return the result of `fn`, which is called once for the item and remembered under `key`.

        Durable on return. If the process dies before that, `fn` is called again. The returned value
        has been stored and read back, even the first time: without `type` it should consist of
        None, bool, int, float, str, bytes, list, tuple and dict; dataclasses, models and dates need
        `type` to come back as themselves.

        Args:
            key: Name of the phase, 1 to 1000 UTF-8 bytes, one for each phase of an item.
            fn: Called without arguments and awaited.
            type: The type of the value, as pydantic reads it.

        Raises:
            InvalidArgument: The value cannot be stored; the item fails.
        """
        name, codec = await self._phases.begin(_named, key, type)
        return await self._phases.remembered(name, partial(compute, fn, codec), codec)

    async def memoized_by_content(
        self,
        value: object,
        fn: Phase[T],
        *,
        type: type[T] | None = None,
        cache: str | None = None,
        ttl: Duration | None = None,
    ) -> T:
        """Return the result of `fn`, which is called once for the item and an equal `value`.

        Args:
            value: Everything that the result depends on; it must be possible to write it as JSON.
            fn: Called without arguments and awaited.
            type: As for `memoized`.
            cache: Name of a cache that all batches of the store share: a result of another item is
                used, and costs nothing. None keeps the result to the item.
            ttl: How long others may use it, seconds or `timedelta`; None means forever. Only with
                `cache`.
        """
        content, codec, cached = await self._phases.begin(_by_content, value, type, cache, ttl)
        make = partial(compute, fn, codec)
        if cached is not None:
            make = partial(self._shared.cache.through, cached, make, codec)
        return await self._phases.remembered(f"c/{content}", make, codec)

    async def memoized_with_cost(
        self, key: str, fn: Priced[T], *, type: type[T] | None = None
    ) -> T:
        """Like `memoized`, for a function that returns its value and its costs.

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
        """Like `memoized_by_content`, for a function that returns its value and its costs."""
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
        """Return the result of `fn`: a phase whose call must not be repeated needlessly.

        The intent to make the call is durable before the call, and its result after it. The cost of
        the call is what `fn` passes to `record_cost`; for a metric that it does not record, the
        cost is the reservation.

        If an earlier attempt at the call has no result, because its process died or `fn` raised,
        nobody knows whether the call was made: `on_unknown` says what to do. Only
        `taquba.RetryAfter` says that it was not made.

        Args:
            key: As for `memoized`.
            fn: Called with a `PaidCall` and awaited.
            reserve: The maximum cost of the call, by metric. It must name every metric of the
                batch's budget. If the budget does not allow the call, it waits, or the batch is
                stopped.
            on_unknown: ``"retry"`` makes the call again, with the same idempotency key. ``"skip"``
                does not: the result is None, and the reservation counts as its cost. A function is
                called instead of `fn`; it can ask the callee about the call, or make the call.
            rate: Key of a rate limit of the batch to wait for before the call.
            cache: Name of a cache that all batches of the store share; `key` must then contain
                everything that the result depends on. A result from the cache costs nothing.
            ttl: How long others may use the result, seconds or `timedelta`; None means forever.
                Only with `cache`.
            type: As for `memoized`.

        Raises:
            InvalidArgument: `reserve` lacks a metric, or `rate` is not a rate limit of the batch.
        """

        def check() -> Payment[T]:
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
            return Payment(self.run_id, self._phases, self._shared, request)

        payment = await self._phases.begin(check)
        return await payment.result()

    async def acquire(self, rate: str) -> None:
        """Wait until a rate limit of the batch allows one more call, in the order of the calls.

        An item that raises `taquba.RetryAfter` afterwards pauses the rate limit that it acquired
        last for that time, and is tried again after that without spending its attempt.

        Args:
            rate: Key of the rate limit.
        """
        limit = await self._phases.begin(self._shared.rates.limit, rate)
        await self._phases.acquire(limit)

    def _recording(self, fn: Priced[T]) -> Phase[T]:
        async def phase() -> T:
            value, costs = await fn()
            for metric, amount in costs.items():
                self.record_cost(metric, amount)
            return value

        return phase


def _named(key: str, kind: type[T] | None) -> tuple[str, Codec[T]]:
    return named("k", key), codec_of(kind)


def _by_content(
    value: object, kind: type[T] | None, cache: str | None, ttl: Duration | None
) -> tuple[str, Codec[T], CacheKey | None]:
    content = by_content(value)
    return content, codec_of(kind), _cached(cache, content, ttl)


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
