"""Threads that call plain functions, and the end of a program that was told to end.

A thread cannot be stopped, and Python waits at its end for every thread. A function that is not
waited for any more, because it ran out of its time or the program was told to stop, would so keep
its program from ending until somebody kills it.
"""

from __future__ import annotations

import concurrent.futures.thread
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final

_LOOK_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 0.5
"""What functions get once nothing else keeps the program from ending, in real time."""

_SIGNALLED: Final = 128
"""The exit code of a program that a signal has ended, as shells count: this, and the signal."""

busy: Final[set[threading.Thread]] = set()
"""Threads that call a function now."""


def end_without_them(signal_number: int) -> None:
    """Have the program, once it has nothing else to do, end though functions still run.

    Args:
        signal_number: The signal that asked it to end, which its exit code tells then.
    """
    if busy:
        threading.Thread(
            target=_watch, args=(_SIGNALLED + signal_number,), name="taquba-ending", daemon=True
        ).start()


def _watch(code: int) -> None:
    while not _is_over() or any(map(_holds_up, threading.enumerate())):
        time.sleep(_LOOK_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    # Where the last of them ends, this thread ends with the program.
    while busy and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    with suppress(BaseException):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _is_over() -> bool:
    """Whether the main thread waits for others, or for those of executors, and for nothing else."""
    waits_for_executors = getattr(concurrent.futures.thread, "_shutdown", False) is True
    return waits_for_executors or not threading.main_thread().is_alive()


def _holds_up(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread() and thread not in busy
