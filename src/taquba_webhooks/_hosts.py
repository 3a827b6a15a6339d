"""How many deliveries one host gets at a time, and when further ones are tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from taquba import Snooze

_FIRST_GUESS: Final = 1.0
_SMOOTHING: Final = 0.2
_SHORTEST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 60.0


@dataclass(slots=True)
class _Host:
    running: int = 0
    seconds: float = _FIRST_GUESS
    """How long a delivery takes, as a moving average."""
    last_turn: float = 0.0
    """When the last of the deliveries that were put off is due."""


class HostLimits:
    """Keeps a slow host from occupying every worker.

    A delivery to a host that is at its limit is snoozed. It returns when its turn should come at
    the rate at which the host responds, so that a long backlog for one host is not claimed and
    snoozed over and over.

    Args:
        limit: Deliveries per host at the same time.
        clock: Seconds that never go back.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    @contextmanager
    def place(self, name: str) -> Generator[None]:
        """Occupy one of the host's places.

        Raises:
            Snooze: All places are taken.
        """
        host = self._hosts.setdefault(name, _Host())
        started = self._clock()
        if host.running >= self._limit:
            raise Snooze(
                self._wait(host, started),
                f"{host.running} deliveries to {name!r} are under way, which is the worker's limit",
            )
        host.running += 1
        try:
            yield
        finally:
            host.running -= 1
            host.seconds += _SMOOTHING * (self._clock() - started - host.seconds)
            if not host.running:
                del self._hosts[name]

    def _wait(self, host: _Host, now: float) -> float:
        turn = max(host.last_turn, now) + host.seconds / self._limit
        # This also limits the cost of a wrong guess, and the error of jobs that were counted twice.
        host.last_turn = min(turn, now + _LONGEST_WAIT)
        return max(host.last_turn - now, _SHORTEST_WAIT)
