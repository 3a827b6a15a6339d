"""What this process has for each store: a producer, and a handle to look; made on first use."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

from taquba._interface.store import ReadableStore, Store
from taquba._model.errors import InboxNotOpen, OwnerUnreachable, StoreNotInitialized, TaqubaError
from taquba._objects.inbox_objects import InboxObjects
from taquba._objects.location import StoreLocation, make_folder
from taquba.producer import SyncProducer

T = TypeVar("T")

_OWNER_SECONDS: Final = 1.0
"""How long to wait for an owner: without one, the store is read directly."""
_END_SECONDS: Final = 5.0

_turn = threading.Lock()
_producers: dict[str, SyncProducer] = {}
_askers: dict[str, _Asker] = {}


def producer_of(url: str) -> SyncProducer:
    """The producer of this process for a store; may be called from any thread."""
    with _turn:
        if url not in _producers:
            try:
                _producers[url] = SyncProducer.open(url)
            except InboxNotOpen:
                # This process is the first one.
                _in_a_thread(_prepare(url))
                _producers[url] = SyncProducer.open(url)
        return _producers[url]


def ask(url: str, question: Callable[[Store], Awaitable[T]]) -> T:
    """Ask the owner of a store; may be called from any thread.

    Raises:
        OwnerUnreachable: There is no owner on this machine.
    """
    with _turn:
        if url not in _askers:
            _askers[url] = _Asker(url)
        asker = _askers[url]
    return asker.ask(question)


def look(url: str, question: Callable[[ReadableStore], Awaitable[T | None]]) -> T | None:
    """Ask the owner of a store, or read the store where there is none.

    Raises:
        OwnerUnreachable: There is none, and the store does not know the answer: it may be among the
            requests that the next owner will take.
    """
    try:
        return ask(url, question)
    except OwnerUnreachable as unreachable:
        found = None
        with suppress(StoreNotInitialized):
            found = _in_a_thread(_read(url, question))
        if found is None:
            raise unreachable
        return found


class _Asker:
    """A service of this process that takes no part in the work, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._service: Any = None
        self._entering = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        # Daemonic: a program that ends does not wait for it.
        threading.Thread(target=self._loop.run_forever, name="taquba-django", daemon=True).start()

    def ask(self, question: Callable[[Store], Awaitable[T]]) -> T:
        return asyncio.run_coroutine_threadsafe(self._ask(question), self._loop).result()

    async def _ask(self, question: Callable[[Store], Awaitable[T]]) -> T:
        async with self._entering:
            if self._service is None:
                # Imported by the first question: it loads the storage engine.
                from taquba._service.service import Service

                service = Service(self._url, role="producer", call_timeout=_OWNER_SECONDS)
                self._service = await service.__aenter__()
        return await question(self._service)

    def end(self) -> None:
        """Leave the service, at the end of the program."""
        with suppress(TaqubaError, TimeoutError):
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(_END_SECONDS)

    async def _leave(self) -> None:
        if self._service is not None:
            await self._service.__aexit__(None, None, None)


async def _prepare(url: str) -> None:
    """Make the place of a store, whose first owner will take what is put into its inbox."""
    location = StoreLocation.parse(url)
    if location.folder is not None:
        await asyncio.to_thread(make_folder, location.folder)
    inbox = await InboxObjects.open(location, fsync=True)
    try:
        await inbox.prepare()
    finally:
        await inbox.close()


async def _read(url: str, question: Callable[[ReadableStore], Awaitable[T]]) -> T:
    from taquba._queue.reader import QueueReader

    async with QueueReader.open(url) as reader:
        return await question(reader)


def _in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run it on an event loop of its own, also where one runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _start_anew() -> None:
    """In a forked child: what the parent has cannot be used, nor a lock that was held."""
    global _turn
    _turn = threading.Lock()
    _producers.clear()
    _askers.clear()


def _end() -> None:
    for asker in _askers.values():
        asker.end()


os.register_at_fork(after_in_child=_start_anew)
atexit.register(_end)
