"""`JobContext`: what a job's function knows beside its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, ParamSpec, Protocol, cast

from typing_extensions import TypeVar

from taquba import CancelToken, LeaseHandle, Queue
from taquba_jobs._errors import DetachedContext
from taquba_jobs._handle import JobHandle
from taquba_jobs._job import Job

P = ParamSpec("P")
S_co = TypeVar("S_co", covariant=True, default=object)
S = TypeVar("S")
T = TypeVar("T")


class Submitter(Protocol[S_co]):
    """What submits jobs: a runner."""

    @property
    def queue(self) -> Queue:
        """The queue that it submits to."""
        ...

    async def submit(
        self, job: Job[S_co, P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        """Submit a job."""
        ...


class Reporter(Protocol):
    """What takes reports of progress."""

    def report(self, done: float, total: float | None, note: str | None) -> None:
        """Take a report, from any thread."""
        ...


class JobContext(Generic[S_co]):
    """What a job's function gets as its first argument.

    A function in another process (an executor's) has a copy that knows the job, its attempt and
    its headers; `state`, `queue`, `submit` and `progress` raise `DetachedContext` there.

    Attributes:
        job_id: The job.
        name: The job's name, as given to `job`.
        attempt: Number of the attempt that runs, from 1.
        headers: The headers it was submitted with.
        lease: The hold on the job; `ensure_at_least` extends it. The runner keeps it by itself.
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
        """A context without a queue, for calling a job's function in a unit test."""
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
        """What the runner was given as `state`."""
        if isinstance(self._state, _Absent):
            raise DetachedContext("state")
        return self._state

    def with_state(self, state: S) -> JobContext[S]:
        """The same context with another state, for middleware that sets up what one job needs."""
        return JobContext(
            self.job_id,
            self.name,
            self.attempt,
            self.headers,
            self.lease,
            state=state,
            # What a runner takes is up to its own state; type checkers judge by this one.
            runner=cast("Submitter[S] | None", self._runner),
            progress=self._progress,
        )

    @property
    def cancel_token(self) -> CancelToken:
        """Fires when the job is asked to cancel. An async function is cancelled as well."""
        return self.lease.cancel_token

    @property
    def queue(self) -> Queue:
        """The queue's owner."""
        return self._owner("queue").queue

    async def submit(
        self, job: Job[S_co, P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        """Submit another job, as `JobRunner.submit` does: at once, durable on return.

        An attempt that is repeated submits it again; an idempotency key makes that one job. From a
        thread: ``anyio.from_thread.run(ctx.submit, other, argument)``.
        """
        return await self._owner("submit").submit(job, *args, **kwargs)

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the job is; `JobHandle.progress` shows it. From any thread.

        Reports are written at most once a second, the newest one first; the others are dropped.

        Args:
            done: How much is done, in a unit of your choice.
            total: How much there is in all, if that is known.
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
    """Stands for a state that did not come along."""


class _NoReports:
    def report(self, done: float, total: float | None, note: str | None) -> None:
        """Nobody looks."""


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
