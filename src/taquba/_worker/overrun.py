"""A function that does not end by its timeout, and so ends the process that runs it.

That is for processes which were started to run one worker loop, and which are replaced.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from taquba._worker.threads import end_process

OVERRAN: Final = 75
"""The exit code of such a process."""

_BEATS: Final = 4
"""How often the event loop shows that it turns, in the time that it may take for that."""

_LAST_SECONDS: Final = 20.0
"""How long such a process may take to settle its jobs: nobody may be there to take that."""


class Overran(Exception):
    """A function did not end by its timeout: the process must."""


class OwnProcess:
    """This process, if it was started to run one worker loop.

    Attributes:
        is_one: Whether it was.
    """

    is_one: bool = False


class LoopWatch:
    """Ends this process when its event loop does not turn while functions run.

    The thread that watches is not one of Python's: what blocks the loop may also hold the global
    lock of the interpreter. It writes to standard error where each thread was.

    Args:
        loop: The event loop.
        seconds: How long it may stand still.
        busy: Whether functions run.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, busy: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._busy = busy
        self._beat: asyncio.TimerHandle | None = None
        self._report: Any = _standard_error()

    def begin(self) -> None:
        """A function is about to run."""
        if self._beat is None:
            self._turn()

    def _turn(self) -> None:
        if not self._busy():
            self.end()
            return
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._report)
        self._beat = self._loop.call_later(self._seconds / _BEATS, self._turn)

    def end(self) -> None:
        """Nothing runs any longer."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
            faulthandler.cancel_dump_traceback_later()

    def must_end(self) -> None:
        """End this process soon, whatever it waits for."""
        self._loop.call_later(_LAST_SECONDS, end_process, OVERRAN)


def _standard_error() -> Any:
    try:
        sys.stderr.fileno()
    except Exception:
        # It was closed, or replaced by something that is not a file.
        return open(os.devnull, "w")
    return sys.stderr
