"""Processes that end with the block that started them, also when the bench is interrupted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def process(
    end: Callable[[subprocess.Popen[Any]], object], *arguments: Any, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """``subprocess.Popen(*arguments, **options)``, and `end` of it when the block is left.

    It gets a session of its own: Ctrl-C at the terminal is for the bench, which then ends it.
    """
    with ExitStack() as cleanup:
        with _interrupts_deferred():
            started = cleanup.enter_context(
                subprocess.Popen(*arguments, start_new_session=True, **options)
            )
            cleanup.callback(end, started)
        yield started


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C takes effect at the end: a process that was just started is not lost sight of."""
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda *seen: waiting.append(seen[0])) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)
