"""Standing for election; the elected process opens the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from taquba._model.errors import StoreFenced, TaqubaError
from taquba._model.own_tasks import was_cancelled
from taquba._model.resources import Opening
from taquba._objects.election import Election
from taquba._objects.location import StoreLocation
from taquba._objects.places import SERVING, Place
from taquba._queue.owner import owner_of
from taquba._queue.queue import Queue
from taquba._service.member import Member
from taquba._worker.shutdown import Shutdown

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
        member: Member,
        *,
        pause_seconds: float,
    ) -> None:
        self.queue: Queue | None = None
        self._election = election
        self._location = location
        self._open_queue = open_queue
        self._member = member
        self._pause_seconds = pause_seconds
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

    async def _serve(self, stop: Shutdown) -> bool:
        """One term; whether it ended because `stop` was set."""
        self._member.opens = True
        try:
            queue = await self._opened()
            if queue is None:
                return False
            try:
                await self._own(queue, stop)
            except TaqubaError as error:
                _log.warning("this process is no longer the owner: %s", error)
            finally:
                self.queue = None
                await _close(queue)
        finally:
            self._member.opens = False
        return stop.is_set()

    async def _opened(self) -> Queue | None:
        """The store, opened; None if that fails now and may succeed later."""
        place = Place(self._location)
        try:
            queue = await self._open_queue()
        except TaqubaError as error:
            # A process that is fenced while it opens the store may become the owner another time.
            if place.gives_up(error) and not isinstance(error, StoreFenced):
                raise
            self._failures += 1
            _log.warning("elected, but the store cannot be opened now: %s", error)
            return None
        self._failures = 0
        place.note(SERVING)
        return queue

    async def _own(self, queue: Queue, stop: Shutdown) -> None:
        """Be the owner until told to stop, or the store fails, or another process is elected."""
        owner = owner_of(queue)
        failed = asyncio.Event()
        owner.on_failure.add(failed.set)
        owner.check()
        await self._member.become_owner(owner)
        self.queue = queue
        self._member.opens = False
        _log.info("this process is now the owner")
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._election.lost()),
            asyncio.ensure_future(failed.wait()),
        ]
        _, losing, failing = waits
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if losing.done():
                _log.warning("another process was elected")
            if failing.done():
                owner.check()
            await self._member.leave()
        finally:
            await _cancel(*waits)


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
