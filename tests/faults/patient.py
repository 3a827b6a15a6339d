"""A queue as a careful caller uses it: calls whose outcome is unknown are repeated."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Any

from taquba import (
    EnqueueRequest,
    EnqueueResult,
    InvalidState,
    JobNotFound,
    Queue,
    StoreError,
)


class PatientQueue:
    """Repeats calls after a transient error; otherwise the queue that it was made of.

    Attributes:
        unknown: How many calls ended with a transient error.
        longest: How long the longest call took to say anything, seconds.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.next_job_id = queue.next_job_id
        self.unknown = 0
        self.longest = 0.0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._queue, name)

        async def repeat(*args: Any, **options: Any) -> Any:
            while True:
                try:
                    return await self._timed(call(*args, **options))
                except StoreError as error:
                    if error.permanent:
                        raise
                    self.unknown += 1

        return repeat

    async def enqueue_batch(self, requests: Sequence[EnqueueRequest]) -> list[EnqueueResult]:
        """Not repeated: a job whose first try had landed may be done and gone by then."""
        try:
            return await self._timed(self._queue.enqueue_batch(requests))
        except StoreError as error:
            if error.permanent:
                raise
            self.unknown += 1
            return []

    async def requeue_dead(self, job_id: str) -> None:
        try:
            await self.__getattr__("requeue_dead")(job_id)
        except (InvalidState, JobNotFound):
            # The first try had landed, and the job has gone on since.
            if not self.unknown:
                raise

    async def _timed(self, call: Awaitable[Any]) -> Any:
        started = time.monotonic()
        try:
            return await call
        finally:
            self.longest = max(self.longest, time.monotonic() - started)
