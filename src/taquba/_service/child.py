"""A child process of a service, from within: it works until its parent says otherwise, or dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from taquba._model.errors import TaqubaError
from taquba._model.redaction import without_secrets
from taquba._worker.overrun import OVERRAN, Overran, OwnProcess
from taquba._worker.threads import busy, end_process, end_without_them

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_log: Final = logging.getLogger(__name__)

STOP: Final = b"stop"
"""The parent's word: take no more jobs, let running handlers finish, and end."""

INTERRUPT: Final = b"interrupt"
"""The parent's word: cancel running handlers, and end."""

_LOOK_SECONDS: Final = 0.5
"""How often it is looked whether the parent lives: a process that it forked may keep the pipe open.
"""

_ORPHANED_SECONDS: Final = 30.0
"""How long handlers may take to finish once the parent has died, unless `drain_timeout` says it."""

_LAST_SECONDS: Final = 10.0

_FAILED: Final = 1


class Orders:
    """What the parent asks for.

    Attributes:
        stop: Set when the process must take no more jobs.
        on_interrupt: Called when it must cancel its handlers.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.on_interrupt: list[Callable[[], None]] = []

    def obey(self, word: bytes) -> None:
        """Carry out the parent's word; at the event loop."""
        self.stop.set()
        if word == INTERRUPT:
            for interrupt in self.on_interrupt:
                interrupt()


Work = Callable[[Orders], Awaitable[None]]
"""What a child process does, in a form that can be sent to it."""


class Logging(NamedTuple):
    """The settings of the parent's log, for a child that has none of its own."""

    level: int
    formatter: bytes | None

    @classmethod
    def current(cls) -> Logging | None:
        """Those of this process; None if it has not configured its log."""
        root = logging.getLogger()
        if not root.handlers:
            return None
        formatter: bytes | None = None
        with contextlib.suppress(Exception):
            formatter = pickle.dumps(root.handlers[0].formatter)
        return cls(root.level, formatter)

    def apply(self) -> None:
        """Use them, unless the modules that were imported have configured the log."""
        root = logging.getLogger()
        if root.handlers:
            return
        handler = logging.StreamHandler()
        with contextlib.suppress(Exception):
            if self.formatter is not None:
                handler.setFormatter(pickle.loads(self.formatter))
        root.addHandler(handler)
        root.setLevel(self.level)


class Start(NamedTuple):
    """What a child process is started with.

    Attributes:
        name: What it does, for the log.
        work: A `Work`, packed: it may fail to load here.
        pipe: Where the parent's words arrive.
        parent: The parent's process id.
        log: The settings of the parent's log.
        drain_seconds: How long running handlers get at the end.
    """

    name: str
    work: bytes
    pipe: Connection
    parent: int
    log: Logging | None
    drain_seconds: float | None


def run_child(start: Start) -> None:
    """The main function of a child process."""
    OwnProcess.is_one = True
    try:
        work: Work = pickle.loads(start.work)
    except BaseException:
        _prepare(start)
        _log.exception("the process of %s cannot load what it should run", start.name)
        sys.exit(_FAILED)
    _prepare(start)
    try:
        asyncio.run(_run(work, start))
    except TaqubaError as error:
        _log.error("the process of %s ends: %s", start.name, error, exc_info=without_secrets(error))
        sys.exit(_FAILED)
    if busy:
        end_without_them(signal.SIGTERM)


def _prepare(start: Start) -> None:
    if start.log is not None:
        start.log.apply()
    # A terminal sends it to the parent as well, which decides. A handler is not inherited:
    # commands that a function starts can be interrupted as usual.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)


async def _run(work: Work, start: Start) -> None:
    orders = Orders()
    loop = asyncio.get_running_loop()

    signals = 0

    def on_sigterm() -> None:
        nonlocal signals
        signals += 1
        # The parent may have said the first one as well: a service manager signals both.
        orders.obey(STOP if signals == 1 else INTERRUPT)

    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(
        target=_listen, args=(orders, loop, start), name="taquba-orders", daemon=True
    ).start()
    try:
        await work(orders)
    except Overran as error:
        _log.error("the process of %s ends: %s", start.name, error)
        end_process(OVERRAN)


def _listen(orders: Orders, loop: asyncio.AbstractEventLoop, start: Start) -> None:
    """Pass the parent's words on, until it has gone; in a thread of its own."""
    while (word := _next_word(start)) is not None:
        _tell(orders, loop, word)
    _log.warning("the parent of the process of %s has died: it ends", start.name)
    _tell(orders, loop, STOP)
    drain = _ORPHANED_SECONDS if start.drain_seconds is None else start.drain_seconds
    time.sleep(drain)
    _tell(orders, loop, INTERRUPT)
    time.sleep(_LAST_SECONDS)
    # Its event loop is blocked, or there is no owner to which it could give its jobs back.
    end_process(_FAILED)


def _next_word(start: Start) -> bytes | None:
    try:
        while not start.pipe.poll(_LOOK_SECONDS):
            if os.getppid() != start.parent:
                return None
        return start.pipe.recv_bytes()
    except (EOFError, OSError):
        return None


def _tell(orders: Orders, loop: asyncio.AbstractEventLoop, word: bytes) -> None:
    # The loop may have ended.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(orders.obey, word)
