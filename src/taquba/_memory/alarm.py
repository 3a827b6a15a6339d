"""An alarm: lets a background loop sleep until its next deadline, or until it is rung."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from taquba._model.clock import Timer


class Alarm:
    """One sleeper, any number of ringers; a ring while nobody sleeps ends the next sleep."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.sleeping = False

    def ring(self) -> None:
        self.sleeping = False
        self._rung.set()

    async def sleep(self, set_timer: Callable[[Callable[[], None]], Timer] | None) -> None:
        """Sleep until rung; `set_timer` arms a timer with the callback that it receives."""
        timer = None if set_timer is None else set_timer(self.ring)
        self.sleeping = not self._rung.is_set()
        try:
            await self._rung.wait()
        finally:
            self.sleeping = False
            self._rung.clear()
            if timer is not None:
                timer.cancel()
