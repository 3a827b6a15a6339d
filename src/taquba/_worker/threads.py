"""Threads that call plain functions, and the end of a program that was asked to end.

A thread cannot be stopped, and Python waits at its end for every thread. So a function that nobody
waits for any longer, because of its timeout or because the program was asked to stop, would keep
the program from ending until somebody kills it.
"""

from __future__ import annotations

import concurrent.futures.thread
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final, NoReturn

_LOOK_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 0.5
"""Real time that functions get once nothing else keeps the program from ending."""

_SIGNALLED: Final = 128
"""The exit code of a program that a signal has ended, as shells count: this, and the signal."""

busy: Final[set[threading.Thread]] = set()
"""Threads that are calling a function."""


def end_without_them(signal_number: int) -> None:
    """Let the program end, once it has nothing else to do, although functions still run.

    Args:
        signal_number: The signal that asked it to end, which sets its exit code.
    """
    if busy:
        threading.Thread(
            target=_watch, args=(_SIGNALLED + signal_number,), name="taquba-ending", daemon=True
        ).start()


def _watch(code: int) -> None:
    while not _is_over() or any(map(_holds_up, threading.enumerate())):
        time.sleep(_LOOK_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    # When the last of them ends, this thread ends with the program.
    while busy and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    end_process(code)


def end_process(code: int) -> NoReturn:
    """End this process at once, although threads run in it."""
    with suppress(BaseException):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _is_over() -> bool:
    """Whether the main thread waits only for other threads, or for those of executors."""
    waits_for_executors = getattr(concurrent.futures.thread, "_shutdown", False) is True
    return waits_for_executors or not threading.main_thread().is_alive()


def _holds_up(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread() and thread not in busy
