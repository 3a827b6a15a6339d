"""`run_workers`: several worker loops in one process, with signal handling."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

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
    loops: list[asyncio.Task[None]] = []
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        for loop in loops:
            loop.cancel()

    async with stopping(shutdown, interrupt, handle_signals=handle_signals) as stop:
        loops += [
            asyncio.create_task(
                _run(store, worker, stop, drain_timeout, group), name=f"worker-{worker.queue}"
            )
            for worker in workers
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            # One that ends without being told to has failed, or nothing is left for any of them.
            stop.set()
            await asyncio.gather(*loops, return_exceptions=True)
        except asyncio.CancelledError:
            interrupt()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*loops, return_exceptions=True)
            raise
    for loop in loops:
        if not loop.cancelled():
            loop.result()
    for loop in loops:
        if loop.cancelled() and not interrupted:
            raise was_cancelled(loop)


async def _run(
    store: Store,
    worker: WorkerSpec,
    stop: asyncio.Event,
    drain_timeout: Duration | None,
    group: UntilEmpty | None,
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
