"""`run_workers`: several worker loops in one process, with signal handling."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

import anyio

from taquba._interface.store import Store
from taquba._model import validate
from taquba._model.errors import InvalidArgument
from taquba._model.own_tasks import was_cancelled
from taquba._model.validate import Duration
from taquba._worker.shutdown import Shutdown, check_shutdown
from taquba._worker.sources import source_of
from taquba._worker.threads import end_without_them
from taquba._worker.until_empty import UntilEmpty
from taquba._worker.worker import Worker, WorkerSpec

Loop = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until it is told to stop, and ends when what it began has ended."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run_workers(
    store: Store,
    *workers: WorkerSpec,
    shutdown: Shutdown | None = None,
    drain_timeout: Duration | None = None,
    handle_signals: bool = True,
    until_empty: bool = False,
) -> None:
    """Run worker loops until SIGTERM, SIGINT or `shutdown`; then drain and return.

    A second signal cancels the handlers at once; their jobs return without spending the attempt,
    and handlers that do not end are left behind. If one loop fails, the others drain and the error
    is raised.

    Args:
        store: An open `Queue`.
        workers: One `WorkerSpec` per queue.
        shutdown: Another way to stop.
        drain_timeout: How long running handlers may take after that, seconds; None waits for them.
        handle_signals: Install handlers for SIGTERM and SIGINT while this runs. Only the main
            thread can; elsewhere pass False and use `shutdown`.
        until_empty: Return also when nothing is left to run, as `run_worker` does, on all queues at
            once: a handler of one may enqueue into another.
    """
    if not workers:
        raise InvalidArgument("run_workers needs at least one WorkerSpec")
    for worker in workers:
        validate.instance(worker, WorkerSpec, "each worker")
    check_shutdown(shutdown)
    group = UntilEmpty(len(workers)) if until_empty else None
    loops = [
        (f"worker-{worker.queue}", partial(_run, store, worker, drain_timeout, group))
        for worker in workers
    ]
    await run_together(loops, shutdown, handle_signals=handle_signals)


async def run_together(
    loops: Iterable[tuple[str, Loop]], shutdown: Shutdown | None, *, handle_signals: bool
) -> None:
    """Run loops until SIGTERM, SIGINT or `shutdown`; then have them end, and wait for that.

    A second signal cancels them. If one of them ends before, the others are told to end as well,
    and its error is raised.

    Args:
        loops: The names of their tasks, and what runs until the event is set that it is given.
        shutdown: Another way to stop.
        handle_signals: Install handlers for the signals.
    """
    running: list[asyncio.Task[None]] = []
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        for task in running:
            task.cancel()

    async with stopping(shutdown, interrupt, handle_signals=handle_signals) as stop:
        told = asyncio.create_task(stop.wait())
        running += [asyncio.create_task(loop(stop), name=name) for name, loop in loops]
        try:
            # One that ends without being told to has failed, or nothing is left for any of them.
            await asyncio.wait({told, *running}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.gather(*running, return_exceptions=True)
        except asyncio.CancelledError:
            interrupt()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*running, return_exceptions=True)
            raise
        finally:
            told.cancel()
    for task in running:
        if not task.cancelled():
            task.result()
    for task in running:
        if task.cancelled() and not interrupted:
            raise was_cancelled(task)


async def _run(
    store: Store,
    worker: WorkerSpec,
    drain_timeout: Duration | None,
    group: UntilEmpty | None,
    stop: asyncio.Event,
) -> None:
    source = source_of(store, worker.queue, worker.lease)
    await Worker(source, worker, drain_timeout, group).run(stop)


@asynccontextmanager
async def stopping(
    shutdown: Shutdown | None, interrupt: Callable[[], None], *, handle_signals: bool
) -> AsyncGenerator[asyncio.Event]:
    """An event that `shutdown`, SIGTERM or SIGINT sets; a second signal calls `interrupt`."""
    stop = asyncio.Event()
    signalled: signal.Signals | None = None

    def on_signal(number: signal.Signals) -> None:
        nonlocal signalled
        if signalled is not None:
            interrupt()
        signalled = number
        stop.set()

    with _signals(on_signal if handle_signals else None):
        relay: asyncio.Task[None] | None = None
        if shutdown is not None:
            relay = asyncio.create_task(_relay(shutdown, stop), name="taquba-shutdown")
            # If it were cancelled, nobody would notice the shutdown.
            relay.add_done_callback(lambda _: stop.set())
        try:
            yield stop
            if relay is not None and relay.cancelled():
                raise was_cancelled(relay)
        finally:
            if relay is not None:
                relay.cancel()
            if signalled is not None:
                end_without_them(signalled)


async def _relay(shutdown: Shutdown, stop: asyncio.Event) -> None:
    await shutdown.wait()
    stop.set()


@contextmanager
def _signals(callback: Callable[[signal.Signals], None] | None) -> Generator[None]:
    if callback is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise InvalidArgument(
            "only the main thread can handle signals: pass handle_signals=False, and shutdown"
        )
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        loop.add_signal_handler(number, partial(callback, number))
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # None is a handler that Python did not install and cannot put back.
            if handler is not None:
                signal.signal(number, handler)
