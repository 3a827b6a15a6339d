"""The type of the `open_queue` fixture."""

from __future__ import annotations

from typing import Any, Protocol

from taquba._queue.queue import Queue


class OpenQueue(Protocol):
    """Opens a queue for the length of a test; accepts the arguments of `Queue.open`."""

    async def __call__(self, url: str = "memory://", **options: Any) -> Queue:
        """A memory store on the mock clock, unless the arguments say otherwise."""
        ...
