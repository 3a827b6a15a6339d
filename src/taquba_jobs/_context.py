"""`JobContext`: the first argument of a job's function."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, ParamSpec, Protocol, cast

from typing_extensions import TypeVar

from taquba import CancelToken, LeaseHandle, Store
from taquba_jobs._errors import DetachedContext
from taquba_jobs._handle import JobHandle
from taquba_jobs._job import Job

P = ParamSpec("P")
S_co = TypeVar("S_co", covariant=True, default=object)
S = TypeVar("S")
T = TypeVar("T")


class Submitter(Protocol[S_co]):
    """Submits jobs: a runner."""

    @property
    def store(self) -> Store:
        """The queue to which it submits."""
        ...

    async def submit(
        self, job: Job[S_co, P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        """Submit a job."""
        ...


class Reporter(Protocol):
    """Receives reports of progress."""

    def report(self, done: float, total: float | None, note: str | None) -> None:
        """Receive a report, from any thread."""
        ...


class JobContext(Generic[S_co]):
    """The first argument of a job's function.

    A function in another process (of an executor) has a copy with the job, its attempt and its
    headers; there `state`, `queue`, `submit` and `progress` raise `DetachedContext`.

    Attributes:
        job_id: The job.
        name: The job's name, as given to `job`.
        attempt: Number of the running attempt, from 1.
        headers: The headers of the submission.
        lease: The lease of the job; `ensure_at_least` extends it. The runner renews it anyway.
    """

    __slots__ = ("_progress", "_runner", "_state", "attempt", "headers", "job_id", "lease", "name")

    def __init__(
        self,
        job_id: str,
        name: str,
        attempt: int,
        headers: Mapping[str, str],
        lease: LeaseHandle,
        *,
        state: S_co,
        runner: Submitter[S_co] | None,
        progress: Reporter | None,
    ) -> None:
        """Internal: a runner makes these; unit tests use `JobContext.detached`."""
        self.job_id = job_id
        self.name = name
        self.attempt = attempt
        self.headers = headers
        self.lease = lease
        self._state: S_co | _Absent = state
        self._runner = runner
        self._progress = progress

    @classmethod
    def detached(cls, state: S) -> JobContext[S]:
        """Return a context without a queue, to call a job's function in a unit test."""
        return JobContext(
            "detached",
            "detached",
            1,
            {},
            LeaseHandle.detached(),
            state=state,
            runner=None,
            progress=_NoReports(),
        )

    def __reduce__(self) -> tuple[Callable[..., JobContext[object]], tuple[object, ...]]:
        return _elsewhere, (self.job_id, self.name, self.attempt, dict(self.headers))

    @property
    def state(self) -> S_co:
        """The `state` of the runner."""
        if isinstance(self._state, _Absent):
            raise DetachedContext("state")
        return self._state

    def with_state(self, state: S) -> JobContext[S]:
        """Return this context with another state, for middleware that sets up a job's resources."""
        return JobContext(
            self.job_id,
            self.name,
            self.attempt,
            self.headers,
            self.lease,
            state=state,
            # The jobs that a runner accepts depend on its own state; type checkers use this one.
            runner=cast("Submitter[S] | None", self._runner),
            progress=self._progress,
        )

    @property
    def cancel_token(self) -> CancelToken:
        """Fires when the job is asked to cancel. An async function is cancelled as well."""
        return self.lease.cancel_token

    @property
    def store(self) -> Store:
        """The handle on the store under which the job runs."""
        return self._owner("store").store

    async def submit(
        self, job: Job[S_co, P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        """Submit another job, as `JobRunner.submit` does: at once, durable on return.

        A repeated attempt submits it again; an idempotency key makes the two one job. From a
        thread: ``anyio.from_thread.run(ctx.submit, other, argument)``.
        """
        try:
            return await self._owner("submit").submit(job, *args, **kwargs)
        except Exception:
            # Otherwise a function that catches everything, and submits again, would block the event
            # loop forever.
            await asyncio.sleep(0)
            raise

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Report the progress of the job; `JobHandle.progress` shows it. Callable from any thread.

        Reports are written at most once a second, the newest one first; the others are dropped.

        Args:
            done: How much is done, in a unit of your choice.
            total: How much there is in total, if that is known.
            note: A short text.

        Raises:
            InvalidArgument: A number or a text that cannot be stored.
        """
        if self._progress is None:
            raise DetachedContext("progress")
        self._progress.report(done, total, note)

    def _owner(self, what: str) -> Submitter[S_co]:
        if self._runner is None:
            raise DetachedContext(what)
        return self._runner


class _Absent:
    """Replaces a state that is not available here."""


class _NoReports:
    def report(self, done: float, total: float | None, note: str | None) -> None:
        """Do nothing."""


def _elsewhere(job_id: str, name: str, attempt: int, headers: dict[str, str]) -> JobContext[object]:
    return JobContext(
        job_id,
        name,
        attempt,
        headers,
        LeaseHandle.detached(),
        state=cast("object", _Absent()),
        runner=None,
        progress=None,
    )


Middleware = Callable[
    [JobContext[S], Callable[[JobContext[S]], Awaitable[object]]], Awaitable[object]
]
"""``async def middleware(ctx, call_next)``: around each job's function; returns its result."""
