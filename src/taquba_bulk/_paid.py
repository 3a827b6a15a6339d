"""Paid calls: an intent is durable before each call, its result after it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Final, Generic, Literal, NamedTuple, TypeVar, cast

import msgpack

from taquba import InvalidArgument, RetryAfter, StoreError
from taquba.extending import (
    UNREADABLE,
    shown,
)
from taquba.extending.typed import Codec, pack, unpack
from taquba_bulk._budget import call_id
from taquba_bulk._cache import CacheKey
from taquba_bulk._costs import Costs
from taquba_bulk._phases import Kept, Phases, dump, named, spend
from taquba_bulk._shared import Shared
from taquba_bulk._stopping import found_in

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A call that is being made, for the function that makes it.

    Attributes:
        idempotency_key: The same each time this call is made, and different for every other call;
            pass it to a callee that recognises repeated calls by it.
        begun: How many times the call has been begun, including this time.
    """

    idempotency_key: str
    begun: int


CallFunction = Callable[[PaidCall], Awaitable[T]]
"""A function that makes a paid call."""

OnUnknown = Literal["retry", "skip"] | CallFunction[T]
"""How to treat a call that was begun and has no result."""

_log: Final = logging.getLogger(__name__)

_MOST_SHOWN: Final = 1000
"""Characters of an answer that its error shows."""

_paying: Final[ContextVar[bool]] = ContextVar("taquba_bulk_paying", default=False)


def is_paying() -> bool:
    """Whether a paid call is being made in this context."""
    return _paying.get()


class _State(IntEnum):
    IDLE = 0
    BEGUN = 1
    DONE = 2
    SKIPPED = 3
    UNREADABLE = 4
    """Whether the answer would not come back as it was, and is kept as plain data."""


class _Row(NamedTuple):
    """The stored record of a call; while it has no result, `costs` is the reservation."""

    idempotency_key: str
    begun: int
    state: _State
    costs: dict[str, int]
    value: bytes

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed

    @property
    def kept(self) -> Kept:
        return Kept(self.costs, self.value)


class Request(NamedTuple, Generic[T]):
    """A paid call that a pipeline requests."""

    key: str
    fn: CallFunction[T]
    on_unknown: OnUnknown[T]
    reserve: Costs
    rate: str | None
    cached: CacheKey | None
    codec: Codec[T]


class Payment(Generic[T]):
    """One paid call of an item.

    Args:
        run_id: The item.
        phases: Its phases.
        shared: The state that it shares with the other items.
        request: The call.
    """

    __slots__ = ("_budget", "_id", "_made", "_name", "_phases", "_request", "_shared")

    def __init__(self, run_id: str, phases: Phases, shared: Shared, request: Request[T]) -> None:
        if is_paying():
            raise InvalidArgument(
                f"the paid call {request.key!r} is made within another one: make it before or after"
            )
        for metric in shared.budget.metrics:
            if metric not in request.reserve.amounts():
                raise InvalidArgument(
                    f"the paid call {request.key!r} must give its maximum cost, as in "
                    f"reserve={{{metric!r}: 0.01}}, because the batch has a budget of {metric}"
                )
        self._phases = phases
        self._shared = shared
        self._budget = shared.budget
        self._request = request
        self._made = False
        self._name = named("p", request.key)
        self._id = call_id(run_id, request.key)

    async def result(self) -> T | None:
        """Return the result of the call, from this or an earlier attempt; None if skipped."""
        request = self._request
        await self._phases.begin(self._phases.check_open, f"the paid call {request.key!r}")
        row = await self._find()
        if row.state is _State.UNREADABLE:
            await self._budget.settle(self._id, Costs(row.costs))
            raise self._unreadable(row)
        if row.state is _State.DONE:
            # The process may have died between the two.
            await self._budget.settle(self._id, Costs(row.costs))
            return self._phases.charge(row.kept, request.codec)
        fn = request.fn
        if row.state is _State.BEGUN:
            await self._budget.write_off(self._id)
            if request.on_unknown == "skip":
                row = row._replace(state=_State.SKIPPED)
                await self._put(row)
            if callable(request.on_unknown):
                fn = request.on_unknown
        if row.state is _State.SKIPPED:
            self._phases.spending().add_all(Costs(row.costs))
            return None
        if request.cached is None:
            kept = await self._make(row, fn)
        else:
            kept = await self._shared.cache.through(
                request.cached, partial(self._make, row, fn), request.codec
            )
            if not self._made:
                await self._keep(row, kept)
        return self._phases.charge(kept, request.codec)

    async def _make(self, row: _Row, fn: CallFunction[T]) -> Kept:
        """Make the call; its result is durable on return."""
        if self._request.rate is not None:
            rate = self._request.rate
            limit = await self._phases.begin(self._shared.rates.limit, rate)
            await self._phases.acquire(limit)
        row = await self._begin(row)
        costs = Costs()
        paying = _paying.set(True)
        try:
            made = PaidCall(row.idempotency_key, row.begun)
            answer = await spend(partial(fn, made), costs)
        except Exception as error:
            await self._failed(row, error, costs)
            raise
        except BaseException:
            self._budget.leave_open(self._id)
            raise
        finally:
            _paying.reset(paying)
        self._made = True
        kept = await self._settle(row, answer, costs.filled_up(self._request.reserve))
        if kept.state is _State.UNREADABLE:
            raise self._unreadable(kept)
        return kept.kept

    async def _settle(self, row: _Row, answer: T, costs: Costs) -> _Row:
        """Keep the result of a call, whatever it is: it was paid for."""
        row = row._replace(costs=costs.packed())
        try:
            row = row._replace(state=_State.DONE, value=dump(self._request.codec, answer))
        except InvalidArgument as error:
            row = row._replace(state=_State.UNREADABLE, value=_in_plain_data(answer, error))
        # If only one of the two is stored, the next attempt finds the result and settles, or finds
        # no result and pays again.
        await asyncio.gather(self._put(row), self._budget.settle(self._id, costs))
        return row

    def _unreadable(self, row: _Row) -> InvalidArgument:
        """The error for a stored answer that is not what the call returned."""
        self._phases.spending().add_all(Costs(row.costs))
        why, answer = cast("list[object]", unpack(row.value))
        return InvalidArgument(
            f"the paid call {self._request.key!r} was made, and is not made again: {why}; "
            f"its answer as plain data: {repr(answer)[:_MOST_SHOWN]}"
        )

    async def _begin(self, row: _Row) -> _Row:
        """Record durably that the call is being made."""
        # Before the intent: a call that cannot be paid is not made, so its outcome is not unknown.
        await self._phases.suspendable(self._budget.reserve(self._id, self._request.reserve))
        begun = row._replace(
            begun=row.begun + 1, state=_State.BEGUN, costs=self._request.reserve.packed()
        )
        await self._put(begun)
        return begun

    async def _failed(self, row: _Row, error: Exception, costs: Costs) -> None:
        """The cost of an attempt at the call that raised."""
        if found_in(error, RetryAfter) is None:
            # Nobody knows whether it was made.
            await self._budget.settle(self._id, costs.filled_up(self._request.reserve))
            return
        idle = row._replace(state=_State.IDLE, costs={})
        await asyncio.gather(self._put(idle), self._budget.settle(self._id, costs))

    async def _find(self) -> _Row:
        try:
            found = await self._phases.memo.read(self._name)
            if found is None:
                return _Row(uuid.uuid4().hex, 0, _State.IDLE, {}, b"")
            row = _Row(*msgpack.unpackb(found))
            row = row._replace(state=_State(row.state), costs=Costs(row.costs).packed())
            if row.state is _State.DONE:
                unpack(row.value)
            return row
        except (*UNREADABLE, StoreError) as error:
            if isinstance(error, StoreError) and not error.permanent:
                raise
            _log.warning(
                "the record of the paid call %r cannot be read, so it is unknown whether it was "
                "made: %s",
                self._request.key,
                error,
            )
            return _Row(uuid.uuid4().hex, 1, _State.BEGUN, self._request.reserve.packed(), b"")

    async def _keep(self, row: _Row, kept: Kept) -> None:
        await self._put(row._replace(state=_State.DONE, costs=kept.costs, value=kept.value))

    async def _put(self, row: _Row) -> None:
        await self._phases.memo.put(self._name, row.encode())


def _in_plain_data(answer: object, error: InvalidArgument) -> bytes:
    """The storable part of an answer, and why it is not the whole answer."""
    try:
        return pack([str(error), answer])
    except Exception:
        # It runs code of the user, or contains something that plain data cannot hold.
        return pack([str(error), shown(answer)])
