"""`JobHandle`: the submitter's handle on a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Collection, Generator, Iterable
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from taquba import CancelOutcome, Duration, JobNotFound
from taquba.extending.checks import at_least_one, duration_ms
from taquba_jobs._decisions import Failure
from taquba_jobs._errors import FailureKind
from taquba_jobs._job import Job
from taquba_jobs._outcomes import (
    JobProgress,
    JobState,
    fetch_progress,
    fetch_result,
    fetch_status,
    lost,
    read_outcome,
    result_of,
)
from taquba_jobs._retention import Retention
from taquba_jobs._rows import Outcome

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LONG_MS: Final = 24 * 3600 * 1000


class JobHandle(Generic[T_co]):
    """A submitted job. Await it for its result.

    Attributes:
        id: The job's id; `JobRunner.handle` makes a handle from it, in any later process.
        new: False if the submission found an existing job.
    """

    __slots__ = ("_job", "_retention", "_store", "id", "new")

    def __init__(
        self, retention: Retention, job: Job[Any, ..., T_co], job_id: str, new: bool
    ) -> None:
        """Internal: `JobRunner.submit` and `JobRunner.handle` make these."""
        self._store = retention.store
        self._job = job
        self._retention = retention
        self.id = job_id
        self.new = new

    def __repr__(self) -> str:
        return f"JobHandle({self._job.name!r}, id={self.id!r}, new={self.new})"

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._join(None).__await__()

    async def join(self, timeout: Duration) -> T_co:
        """Return the job's result, like awaiting the handle, but wait at most `timeout`.

        Args:
            timeout: Seconds, on the queue's clock.

        Raises:
            JobFailed: The job has failed for good.
            TimeoutError: It has not ended in time; it continues.
            JobNotFound: There is no such job, or its result has been removed.
        """
        return await self._join(duration_ms(timeout, "timeout", minimum=1))

    async def _join(self, timeout_ms: int | None) -> T_co:
        outcome = await self.ended(timeout_ms)
        return await result_of(self._store, self._job, self.id, outcome)

    async def ended(self, timeout_ms: int | None = None) -> Outcome:
        """Internal: wait for the job's end."""
        if not self.new:
            # Most often it has ended. After a failure it may have been requeued.
            outcome = await read_outcome(self._store, self.id, durable=True)
            if outcome is not None and outcome.failure is None:
                return outcome
        deadline = None if timeout_ms is None else self._now() + timeout_ms
        while True:
            wait_ms = _LONG_MS if deadline is None else deadline - self._now()
            if wait_ms <= 0:
                raise TimeoutError(f"job {self.id!r} has not ended within {timeout_ms} ms")
            # For a job that has ended, too, the outcome is durable afterwards.
            waited = await self._store.wait_for_completion(self.id, wait_ms / 1000)
            if not waited.timed_out:
                break
        outcome = await read_outcome(self._store, self.id)
        if outcome is not None:
            return outcome
        raise await lost(self._store, waited.job) or JobNotFound(self.id)

    def _now(self) -> int:
        return self._store.clock.monotonic_ms()

    async def fetch_result(self) -> T_co | None:
        """Return the job's result; None if it has not ended, or if the result has been removed.

        Raises:
            JobFailed: The job has failed for good.
        """
        return await fetch_result(self._store, self._job, self.id)

    async def status(self) -> JobState | None:
        """Return the job's state; None if it does not exist, or its outcome has been removed."""
        return await fetch_status(self._store, self.id)

    async def progress(self) -> JobProgress | None:
        """Return the last progress report; None if there is none, or the job has ended."""
        return await fetch_progress(self._store, self.id)

    async def cancel(self) -> CancelOutcome:
        """Cancel the job; durable on return.

        A waiting job is removed at once. A running one is asked to stop: its cancel token fires, an
        async function is cancelled, and once it has stopped the job is a dead letter. Awaiting a
        cancelled job raises `JobFailed`, kind `cancelled`; its idempotency key is free again.

        Returns:
            ``removed``, ``requested``, or ``not_found`` for a job that has ended.
        """
        record = await self._store.get_job(self.id)
        if record is None:
            # Its end may still be on its way to the disk.
            return await self._store.cancel(self.id)
        failure = Failure(FailureKind.CANCELLED, "it was cancelled before it ran")
        ending = self._retention.end(record, failure, reported=True)
        cancelled = await self._store.cancel(self.id, ending.effects)
        if cancelled is CancelOutcome.REMOVED:
            ending.landed()
        return cancelled


async def gather(awaitables: Iterable[Awaitable[T]], *, concurrency: int = 100) -> list[T]:
    """Await many handles, or submissions, at most `concurrency` at a time.

        handles = await gather(runner.submit(resize, name) for name in names)
        sizes = await gather(handles)

    Returns:
        Their results, in order. The first exception ends it and cancels the other awaitables; for
        handles, that ends only the waiting, not the jobs.
    """
    at_least_one(concurrency, "concurrency")
    results: dict[int, T] = {}
    numbered = enumerate(awaitables)

    async def take_turns() -> None:
        for place, awaitable in numbered:
            results[place] = await awaitable

    turns = [asyncio.ensure_future(take_turns()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*turns)
    finally:
        await _end(turns)
    return [results[place] for place in sorted(results)]


async def as_completed(handles: Iterable[JobHandle[T]]) -> AsyncGenerator[JobHandle[T]]:
    """Yield the handles in the order in which their jobs end; awaiting one then does not wait.

        async for handle in as_completed(handles):
            try:
                print(handle.id, await handle)
            except JobFailed as error:
                print(error)

    Leaving the loop ends the waiting, not the jobs.
    """
    ended: asyncio.Queue[asyncio.Task[Outcome]] = asyncio.Queue()
    waits = {asyncio.create_task(handle.ended()): handle for handle in handles}
    for wait in waits:
        wait.add_done_callback(ended.put_nowait)
    try:
        for _ in range(len(waits)):
            yield waits[await ended.get()]
    finally:
        await _end(waits)


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
