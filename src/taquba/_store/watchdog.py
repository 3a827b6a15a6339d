"""A watch on steps that are taken one after the other, thousands a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls `overdue` each time a step takes `timeout` seconds more.

    A step costs the note of when it is due, not a timer of its own: the only timer looks once per
    `timeout` whether there is a step that should be done by now.
    """

    def __init__(self, timeout: float, overdue: Callable[[], None]) -> None:
        self._timeout = timeout
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """A step begins."""
        self._due = self._loop.time() + self._timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def __exit__(self, *_: object) -> None:
        self._due = None

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        now = self._loop.time()
        if now >= self._due:
            self._due = now + self._timeout
            self._overdue()
        self._timer = self._loop.call_at(self._due, self._look)
