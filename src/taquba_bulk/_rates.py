"""Rate limits: how often items may do something, by key."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from taquba import Clock, Duration, InvalidArgument, InvalidArgumentType
from taquba.extending.checks import at_least_one, duration_ms
from taquba_bulk import _values
from taquba_bulk._stopping import Suspended

Rate = tuple[int, Duration | str]
"""A number per period: ``(500, "1m")``; seconds, a `timedelta`, or a text such as ``30s``."""

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_MOST: Final = 1_000_000_000
_LENGTH: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d)")


class RateLimit:
    """At most `count` grants in any `per_ms`, in the order of the requests."""

    def __init__(self, clock: Clock, count: int, per_ms: int) -> None:
        self._clock = clock
        self._count = count
        self._per_ms = per_ms
        self._granted: deque[int] = deque(maxlen=count)
        self._paused_until = 0
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self.halted = False

    async def acquire(self) -> None:
        """Wait until one more call is allowed.

        Raises:
            Suspended: The batch is being stopped.
        """
        async with self._turn:
            while (wait_ms := self._wait_ms()) > 0:
                if self.halted:
                    raise Suspended
                self._wake.clear()
                timer = self._clock.call_later(wait_ms, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()
            self._granted.append(self._clock.monotonic_ms())

    def pause(self, delay_ms: int) -> None:
        """Grant nothing for some time."""
        until = self._clock.monotonic_ms() + delay_ms
        self._paused_until = max(self._paused_until, until)

    def halt(self, halted: bool) -> None:
        """Let nobody wait any more, or again."""
        self.halted = halted
        self._wake.set()

    def _wait_ms(self) -> int:
        now = self._clock.monotonic_ms()
        wait_ms = self._paused_until - now
        if len(self._granted) == self._count:
            wait_ms = max(wait_ms, self._granted[0] + self._per_ms - now)
        return wait_ms


class RateLimits:
    """The rate limits of a batch, in memory: a new process does not know of earlier grants.

    Args:
        clock: The clock.
        rates: The limits by key.
    """

    def __init__(self, clock: Clock, rates: Mapping[str, Rate] | None) -> None:
        self._limits = {key: _limit(clock, key, rate) for key, rate in _checked(rates).items()}

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


def _limit(clock: Clock, key: str, rate: Any) -> RateLimit:
    _values.name(key, "the key of a rate limit")
    if not isinstance(rate, (tuple, list)) or len(rate) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidArgumentType(f'rate[{key!r}] must be a pair like (500, "1m"), not {rate!r}')
    count, per = rate  # pyright: ignore[reportUnknownVariableType]
    what = f"rate[{key!r}]"
    if at_least_one(count, what) > _MOST:  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidArgument(f"{what} may allow at most {_MOST:,}; got {count}: leave it out")
    return RateLimit(clock, count, _length_ms(per, what))  # pyright: ignore[reportUnknownArgumentType]


def _length_ms(per: Any, what: str) -> int:
    if not isinstance(per, str):
        return duration_ms(per, what, minimum=1)
    part = _LENGTH.fullmatch(per)
    if part is None:
        raise InvalidArgument(f"{what}: {per!r} is not a period of time: write 30s, 1m or 2h")
    return duration_ms(int(part[1]) * _UNITS[part[2]], what, minimum=1)
