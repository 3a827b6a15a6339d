"""Where a queue, reader or producer may be used: in the process and loop that opened it."""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

from taquba._model.errors import ForkedError, WrongEventLoop


class Place:
    """The process and event loop in which something was opened."""

    def __init__(self, what: str = "queue") -> None:
        self._what = what
        self.loop = asyncio.get_running_loop()
        self._pid = os.getpid()

    def check(self) -> None:
        """Refuse a call from another process, thread or event loop."""
        if os.getpid() != self._pid:
            raise ForkedError(self._what)
        if asyncio._get_running_loop() is not self.loop:
            raise WrongEventLoop(self._what)


async def refuse(error: Exception) -> NoReturn:
    """Raise an error after other tasks have had their turn.

    Otherwise a loop that catches every exception of a call, and calls again, would block the event
    loop forever if every call is refused at once.
    """
    await asyncio.sleep(0)
    raise error
