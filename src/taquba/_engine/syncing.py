"""A thread of its own for fsync, so that the event loop never waits for a disk.

Every commit on a local folder passes through here, so it is a bare thread and queue: an executor's
futures and locks would add a tenth to the latency of an idle enqueue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from taquba._objects.folder import DurableFolder

_Call = tuple[Callable[[], None], asyncio.Future[None]]


class FolderSync:
    """Runs a `DurableFolder`'s blocking calls, one at a time, off the event loop."""

    def __init__(self, folder: DurableFolder) -> None:
        self.folder = folder
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=self._work, name="taquba-fsync", daemon=True).start()

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` on the thread; its error is raised here."""
        done = asyncio.get_running_loop().create_future()
        self._calls.put((call, done))
        await done

    def close(self) -> None:
        """End the thread after the calls it was given."""
        self._calls.put(None)

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            call, done = work
            error: Exception | None = None
            try:
                call()
            except Exception as raised:
                error = raised
            loop = done.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_report, done, error)


def _report(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
