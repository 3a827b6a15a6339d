"""Standing for election; the elected process opens the store and runs the workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from taquba._model.errors import StoreFenced, TaqubaError
from taquba._model.own_tasks import was_cancelled
from taquba._model.resources import Opening
from taquba._model.validate import Duration
from taquba._objects.election import Election
from taquba._objects.location import StoreLocation
from taquba._objects.places import SERVING, Place
from taquba._queue.queue import Queue
from taquba._worker.shutdown import Shutdown
from taquba._worker.worker import WorkerSpec
from taquba._worker.workers import run_workers

_log: Final = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS: Final = 30.0
"""The pause between two terms if the store cannot be opened."""


class Ownership:
    """Terms as the owner of a store, one after the other.

    Attributes:
        queue: The open queue while this process is the owner; otherwise None.
    """

    def __init__(
        self,
        election: Election,
        location: StoreLocation,
        open_queue: Callable[[], Opening[Queue]],
        workers: Sequence[WorkerSpec],
        *,
        pause_seconds: float,
        drain_timeout: Duration | None,
    ) -> None:
        self.queue: Queue | None = None
        self._election = election
        self._location = location
        self._open_queue = open_queue
        self._workers = workers
        self._pause_seconds = pause_seconds
        self._drain_timeout = drain_timeout
        self._working: asyncio.Task[None] | None = None
        self._interrupted = False
        self._failures = 0
        """How many consecutive times the store could not be opened."""

    async def stand(self, stop: Shutdown) -> None:
        """Be the owner whenever elected, until `stop` is set.

        Raises:
            TaqubaError: The store cannot be opened, by this process or another, and this process
                has never had it open or stood by.
        """
        try:
            while await _unless(stop, self._election.win()) and not await self._serve(stop):
                # Others get their chance first.
                await self._election.resign()
                await _unless(stop, asyncio.sleep(self._next_pause()))
        finally:
            await asyncio.shield(asyncio.ensure_future(self._election.resign()))

    def _next_pause(self) -> float:
        longest = max(self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        return min(self._pause_seconds * 2.0 ** min(self._failures, 32), longest)

    def interrupt(self) -> None:
        """Cancel running handlers; their jobs return without spending the attempt."""
        if self._working is not None:
            self._interrupted = True
            self._working.cancel()

    async def _serve(self, stop: Shutdown) -> bool:
        """One term; whether it ended because `stop` was set."""
        place = Place(self._location)
        try:
            queue = await self._open_queue()
        except TaqubaError as error:
            # A process that is fenced while it opens the store may become the owner another time.
            if place.gives_up(error) and not isinstance(error, StoreFenced):
                raise
            self._failures += 1
            _log.warning("elected, but the store cannot be opened now: %s", error)
            return False
        self._failures = 0
        place.note(SERVING)
        _log.info("this process is now the owner")
        try:
            self.queue = queue
            await self._work(queue, stop)
        except TaqubaError as error:
            _log.warning("this process is no longer the owner: %s", error)
        finally:
            self.queue = None
            await _close(queue)
        return stop.is_set()

    async def _work(self, queue: Queue, stop: Shutdown) -> None:
        """Run the workers until they must stop, or fail, or another process is elected."""
        drain = asyncio.Event()
        self._interrupted = False
        self._working = working = asyncio.create_task(
            run_workers(
                queue,
                *self._workers,
                shutdown=drain,
                drain_timeout=self._drain_timeout,
                handle_signals=False,
            ),
            name="taquba-workers",
        )
        stopping = asyncio.ensure_future(stop.wait())
        losing = asyncio.ensure_future(self._election.lost())
        try:
            await asyncio.wait({working, stopping, losing}, return_when=asyncio.FIRST_COMPLETED)
            drain.set()
            if losing.done():
                _log.warning("another process was elected; running handlers are cancelled")
                working.cancel()
            await asyncio.wait({working})
            if not working.cancelled():
                working.result()
            elif not losing.done() and not self._interrupted:
                raise was_cancelled(working)
        finally:
            await _cancel(working, stopping, losing)


async def _close(queue: Queue) -> None:
    try:
        await queue.close()
    except TaqubaError as error:
        # Its successor takes the store over as it is.
        _log.warning("the store was not closed properly: %s", error)


async def _unless(stop: Shutdown, work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`, but only until `stop` is set; returns whether to continue."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, stopping):
            if task.cancelled():
                raise was_cancelled(task)
        if working.done():
            working.result()
        return not stop.is_set()
    finally:
        await _cancel(working, stopping)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
