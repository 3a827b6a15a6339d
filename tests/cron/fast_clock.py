"""A real clock on which a minute takes a tenth of a second, for schedules in real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from taquba import SystemClock
from taquba._model.clock import Timer

SPEED = 600


class FastClock(SystemClock):
    """Tells the same time in every process that is given the same `origin`.

    Args:
        origin: Real seconds since the epoch at which it is 2030-01-01.
    """

    def __init__(self, origin: float) -> None:
        self._origin = origin
        self._start_ms = round(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1000)

    def time_ms(self) -> int:
        return self._start_ms + round((time.time() - self._origin) * 1000 * SPEED)

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() * SPEED

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        return super().call_later(-(-delay_ms // SPEED), callback)
