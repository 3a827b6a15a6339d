"""Rate limits: how often items may do something, by key."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgpack

from taquba import Duration, InvalidArgument, InvalidArgumentType, Store
from taquba.extending import UNREADABLE, describe
from taquba.extending.checks import at_least_one, duration_ms
from taquba_bulk import _values
from taquba_bulk._holds import handle_id, swap
from taquba_bulk._stopping import Suspended

Rate = tuple[int, Duration | str]
"""A number per period: ``(500, "1m")``; seconds, a `timedelta`, or a text such as ``30s``."""


class Limit(NamedTuple):
    """At most `number` in any `per_ms`."""

    number: int
    per_ms: int


_log: Final = logging.getLogger(__name__)

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_MOST: Final = 1_000_000_000
_MOST_TIMES: Final = 2000
"""Times of grants that an entry keeps apart."""

_LENGTH: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d)")


class Grants:
    """What was granted under a rate limit lately, by all processes.

    Times are those of the store's clock, in milliseconds since the Unix epoch.
    """

    __slots__ = ("_granted", "paused_until")

    def __init__(self, granted: list[tuple[int, int]] | None = None, paused_until: int = 0) -> None:
        self._granted = granted or []
        """Times, ascending, and how many were granted then."""
        self.paused_until = paused_until

    def encode(self, sign: bytes) -> bytes:
        """As it is stored; `sign` makes it differ from what any other process stores."""
        packed: bytes = msgpack.packb((self._granted, self.paused_until, sign))
        return packed

    @classmethod
    def decode(cls, row: bytes | None) -> Grants:
        """What is stored; nothing if it cannot be read."""
        if row is None:
            return cls()
        try:
            granted, paused_until, _ = msgpack.unpackb(row)
            return cls([(int(at), int(count)) for at, count in granted], int(paused_until))
        except UNREADABLE as error:
            _log.warning("grants of a rate limit are forgotten: %s", describe(error))
            return cls()

    def room(self, limit: Limit, now: int) -> tuple[int, int]:
        """How many may be granted now, and how long until there may be more, ms."""
        # What lies ahead was granted by a clock that is ahead, or before this one was set back.
        recent = [(min(at, now), count) for at, count in self._granted if at > now - limit.per_ms]
        self._granted = recent
        if self.paused_until > now:
            return 0, self.paused_until - now
        free = limit.number - sum(count for _, count in recent)
        if free > 0:
            return free, 0
        return 0, max(1, recent[0][0] + limit.per_ms - now)

    def grant(self, now: int, count: int) -> None:
        """Grant so many."""
        self._granted = [*self._granted, (now, count)]
        if len(self._granted) > _MOST_TIMES:
            # Each two as if they had been granted at the later time: never too many are allowed.
            pairs = zip(self._granted[::2], self._granted[1::2], strict=False)
            merged = [(later, one + other) for (_, one), (later, other) in pairs]
            self._granted = [*merged, *self._granted[2 * len(merged) :]]

    def moved(self, earlier: int, later: int) -> None:
        """What was granted at one time was used at a later one."""
        self._granted = [(later if at == earlier else at, n) for at, n in self._granted]


class RateLimit:
    """At most a number of grants in any period, in the order of the requests of each process.

    The grants are an entry of the store, which all processes that work on the batch write. What is
    granted together shares a write, and what other processes have granted refuses it.

    Args:
        store: An open handle on the store.
        key: The key of its entry.
        limit: The limit.
    """

    def __init__(self, store: Store, key: str, limit: Limit) -> None:
        self._store = store
        self._clock = store.clock
        self._key = key
        self.limit = limit
        self._row: bytes | None = None
        self._grants = Grants()
        """What `_row` says, and what has become known since."""
        self._writes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._granting: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        """Whose turn it is to write."""
        self.halted = False

    async def acquire(self) -> None:
        """Wait until one more call is allowed.

        Raises:
            Suspended: The batch is being stopped.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(granted)
        while not granted.done():
            granting = self._granting
            if granting is None or granting.done():
                granting = asyncio.create_task(self._grant(), name="taquba-bulk-rate")
                self._granting = granting
            try:
                await asyncio.wait((granted, granting), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                granted.cancel()
                raise
        await granted

    async def pause(self, delay_ms: int) -> None:
        """Grant nothing for some time."""
        async with self._turn:
            while True:
                until = self._clock.time_ms() + delay_ms
                self._grants.paused_until = max(self._grants.paused_until, until)
                if await self._write():
                    return

    def halt(self, halted: bool) -> None:
        """Let nobody wait any more, or again."""
        self.halted = halted
        self._wake.set()

    async def _grant(self) -> None:
        """Grant until nobody waits."""
        while self._waiting:
            try:
                await self._grant_some()
            except Exception as error:
                self._answer(len(self._waiting), error)

    async def _grant_some(self) -> None:
        async with self._turn:
            now = self._clock.time_ms()
            free, wait_ms = self._grants.room(self.limit, now)
            count = min(free, sum(not one.done() for one in self._waiting))
            if count:
                self._grants.grant(now, count)
                if await self._write():
                    # Calls begin only now; the next write says so.
                    self._grants.moved(now, self._clock.time_ms())
                    self._answer(count, None)
                return
        if free:
            # Nobody waits any longer.
            self._waiting.clear()
        elif self.halted:
            self._answer(len(self._waiting), Suspended())
        else:
            await self._pause(wait_ms)

    async def _pause(self, wait_ms: int) -> None:
        self._wake.clear()
        timer = self._clock.call_later(wait_ms, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _write(self) -> bool:
        """Store the grants; False, with those of the store, if others have written meanwhile."""
        self._writes += 1
        row = self._grants.encode(handle_id(self._store) + self._writes.to_bytes(8))
        if await swap(self._store, self._key, self._row, row):
            self._row = row
            return True
        self._row = await self._store.kv_get(self._key)
        self._grants = Grants.decode(self._row)
        return False

    def _answer(self, count: int, error: BaseException | None) -> None:
        while count and self._waiting:
            one = self._waiting.popleft()
            if one.done():
                continue
            count -= 1
            if error is None:
                one.set_result(None)
            else:
                one.set_exception(error)


class RateLimits:
    """The rate limits of a batch.

    Args:
        store: An open handle on the store.
        prefix: The prefix of their entries.
        rates: The limits by key.
    """

    def __init__(self, store: Store, prefix: str, rates: Mapping[str, Rate] | None) -> None:
        self._store = store
        self._prefix = prefix
        self.own = {key: _limit(key, rate) for key, rate in _checked(rates).items()}
        self._limits: dict[str, RateLimit] = {}
        self.join(self.own)

    def join(self, limits: Mapping[str, Limit]) -> None:
        """Have these limits: those of the process that runs the batch."""
        for key in self._limits.keys() - limits:
            del self._limits[key]
        for key, limit in limits.items():
            if key in self._limits:
                self._limits[key].limit = limit
            else:
                entry = self._prefix + quote(key, safe="")
                self._limits[key] = RateLimit(self._store, entry, limit)

    def limit(self, key: str) -> RateLimit:
        """The limit of a key."""
        found = self._limits.get(key)
        if found is None:
            known = ", ".join(map(repr, self._limits)) or "none"
            raise InvalidArgument(f"the batch has no rate limit {key!r}; its rate= names {known}")
        return found

    def halt(self, halted: bool) -> None:
        """Let nobody wait any more, or again."""
        for limit in self._limits.values():
            limit.halt(halted)


def _checked(rates: Any) -> Mapping[str, Rate]:
    if rates is None:
        return {}
    if not isinstance(rates, Mapping):
        raise InvalidArgumentType(f'rate must be like {{"llm": (500, "1m")}}, not {rates!r}')
    return rates  # pyright: ignore[reportUnknownVariableType] - its values are checked one by one


def _limit(key: str, rate: Any) -> Limit:
    _values.name(key, "the key of a rate limit")
    if not isinstance(rate, (tuple, list)) or len(rate) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidArgumentType(f'rate[{key!r}] must be a pair like (500, "1m"), not {rate!r}')
    count, per = rate  # pyright: ignore[reportUnknownVariableType]
    what = f"rate[{key!r}]"
    if at_least_one(count, what) > _MOST:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidArgument(f"{what} may allow at most {_MOST:,}; got {count}: leave it out")
    return Limit(count, _length_ms(per, what))  # pyright: ignore[reportUnknownArgumentType]


def _length_ms(per: Any, what: str) -> int:
    if not isinstance(per, str):
        return duration_ms(per, what, minimum=1)
    part = _LENGTH.fullmatch(per)
    if part is None:
        raise InvalidArgument(f"{what}: {per!r} is not a period of time: write 30s, 1m or 2h")
    return duration_ms(int(part[1]) * _UNITS[part[2]], what, minimum=1)
