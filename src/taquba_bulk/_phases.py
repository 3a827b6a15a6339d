"""Phases of an item: their results and costs, remembered beyond an attempt."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import msgpack

from taquba import InvalidArgument, InvalidArgumentType, ObjectDamaged
from taquba.extending import UNREADABLE, Leash
from taquba.extending.typed import Codec, Undecodable, digest, unpack
from taquba_bulk import _values
from taquba_bulk._codec import ANYTHING, codec_for
from taquba_bulk._costs import Costs
from taquba_bulk._rates import RateLimit
from taquba_bulk._stopping import Suspended
from taquba_workflow import EffectsSealed, Memo

T = TypeVar("T")
Q = ParamSpec("Q")

_log: Final = logging.getLogger(__name__)

Phase = Callable[[], Awaitable[T]]
"""The function of a phase; called without arguments, so it closes over what it needs."""

_LATE_CALLS: Final = 100
"""How many calls the clean-up of a pipeline may make when its attempt is suspended."""

_spending: Final[ContextVar[Costs | None]] = ContextVar("taquba_bulk_phase", default=None)
"""Costs of the phase that runs in this context."""


class Kept(NamedTuple):
    """The result of a phase, as it is stored."""

    costs: dict[str, int]
    value: bytes

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Kept:
        """Read a stored result; raises one of `UNREADABLE` if it is damaged."""
        costs, value = msgpack.unpackb(data)
        unpack(value)
        return cls(Costs(costs).packed(), value)


class Phases:
    """The phases of one item.

    Args:
        memo: Where they are remembered.
    """

    __slots__ = (
        "_ended",
        "_late_calls",
        "costs",
        "leash",
        "limited_by",
        "memo",
        "suspended",
    )

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self.costs = Costs()
        """The cost of the item, including remembered phases."""
        self.limited_by: RateLimit | None = None
        """The rate limit that the item acquired last."""
        self.suspended = False
        """Whether the attempt was suspended, whatever its pipeline did then."""
        self.leash: Leash[Any] | None = None
        """The context of the pipeline."""
        self._late_calls = 0
        self._ended: str | None = None

    def end(self, attempt: str) -> None:
        """The attempt has ended: nothing more can count for it."""
        self._ended = attempt

    def check_open(self, call: str) -> None:
        """Raise `EffectsSealed` if the attempt has ended, because the change would be lost."""
        if self._ended is not None:
            raise EffectsSealed(call, self._ended)

    def spending(self) -> Costs:
        """The account for a cost that is recorded now: that of the phase, or of the item.

        Raises:
            EffectsSealed: It belongs to the item, and the attempt at it has ended.
        """
        of_phase = _spending.get()
        if of_phase is not None:
            return of_phase
        self.check_open("recording a cost")
        return self.costs

    async def remembered(
        self, name: str, make: Callable[[], Awaitable[Kept]], codec: Codec[T]
    ) -> T:
        """Return the result of a phase, from this or an earlier attempt; `make` runs it."""
        await self.begin(self.check_open, "a phase")
        kept = await self._find(name)
        if kept is not None:
            try:
                value = codec.load(kept.value)
            except Undecodable as error:
                _log.warning(
                    "a phase runs again, because its stored result does not fit: %s", error
                )
            else:
                self.spending().add_all(Costs(kept.costs))
                return value
        kept = await make()
        await self.memo.put(name, kept.encode())
        return self.charge(kept, codec)

    async def acquire(self, limit: RateLimit) -> None:
        """Wait until a rate limit allows one more."""
        self.limited_by = limit
        await self.suspendable(limit.acquire())

    async def begin(self, check: Callable[Q, T], *args: Q.args, **kwargs: Q.kwargs) -> T:
        """`enter` a call that `check` prepares, given its arguments.

        Others run before what it raises is raised: a pipeline that catches everything, and calls
        again, would block the event loop forever.
        """
        if self.suspended:
            await self.enter()
        try:
            return check(*args, **kwargs)
        except Exception:
            await asyncio.sleep(0)
            raise

    async def enter(self) -> None:
        """Begin a call that may suspend the attempt, or be remembered.

        Raises:
            Suspended: The attempt was suspended before, and its pipeline continued.
        """
        if not self.suspended:
            return
        self._late_calls += 1
        if self._late_calls > _LATE_CALLS:
            # It swallows the exceptions raised here, and would block the event loop forever.
            if self.leash is not None:
                self.leash.leave(Suspended())
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)
        raise Suspended

    async def suspendable(self, work: Awaitable[T]) -> T:
        """Await something that may suspend the attempt."""
        try:
            return await work
        except Suspended:
            self.suspended = True
            raise

    def charge(self, kept: Kept, codec: Codec[T]) -> T:
        """The value of a stored result; its costs are added to the item."""
        self.spending().add_all(Costs(kept.costs))
        return load(codec, kept.value)

    async def _find(self, name: str) -> Kept | None:
        try:
            found = await self.memo.get(name)
            return None if found is None else Kept.decode(found)
        except (*UNREADABLE, ObjectDamaged) as error:
            _log.warning("phase %r runs again, because its row cannot be read: %s", name, error)
            return None


def in_phase() -> bool:
    """Whether a phase is running in this context."""
    return _spending.get() is not None


async def compute(phase: Phase[T], codec: Codec[T]) -> Kept:
    """Run a phase, and pack its result."""
    costs = Costs()
    value = await spend(phase, costs)
    return Kept(costs.packed(), dump(codec, value))


async def spend(phase: Phase[T], costs: Costs) -> T:
    """Run a phase; the costs that it records are added to `costs`."""
    token = _spending.set(costs)
    try:
        return await _awaitable(phase)
    finally:
        _spending.reset(token)


def _awaitable(phase: Phase[T]) -> Awaitable[T]:
    found: object = phase()
    if not inspect.isawaitable(found):
        raise InvalidArgumentType(
            f"a phase must be a function without arguments that can be awaited, not {phase!r}"
        )
    return found


def dump(codec: Codec[T], value: T) -> bytes:
    try:
        return codec.dump(value)
    except Undecodable as error:
        raise InvalidArgument(f"the result of a phase cannot be stored: {error}") from None


def load(codec: Codec[T], data: bytes) -> T:
    try:
        return codec.load(data)
    except Undecodable as error:
        raise InvalidArgument(f"the stored result of a phase does not fit: {error}") from None


@lru_cache(maxsize=256)
def _codec_of(kind: Any) -> Codec[Any]:
    return codec_for(kind, "the value")


def codec_of(kind: Any) -> Codec[Any]:
    """The codec for values of a phase; of any type if it is None."""
    return ANYTHING if kind is None else _codec_of(kind)


def named(kind: str, key: str) -> str:
    """Where a phase is remembered, by its key."""
    return f"{kind}/{_values.name(key, 'the key of a phase')}"


def by_content(value: object) -> str:
    """The key of a phase whose outcome depends on `value` alone."""
    try:
        return digest(value).hex()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgumentType(
            f"a phase can be remembered only by a value that is plain data ({error}); "
            f"got {type(value).__name__}"
        ) from None
