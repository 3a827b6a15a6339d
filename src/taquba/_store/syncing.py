"""A thread of its own for fsync, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from taquba._store.folder import DurableFolder


class FolderSync:
    """Runs a `DurableFolder`'s blocking calls, one at a time, off the event loop."""

    def __init__(self, folder: DurableFolder) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="taquba-fsync")

    async def run(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def close(self) -> None:
        self._thread.shutdown(wait=False)
