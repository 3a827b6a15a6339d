"""`JobRunner`: submits jobs, and runs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from taquba import (
    Duration,
    InvalidArgument,
    JobRecord,
    QueueClosed,
    Store,
    StoreError,
    TaqubaError,
    WorkerSpec,
    run_workers,
)
from taquba.extending import (
    ExecutorOrFactory,
    RunsInBackground,
    Shutdown,
    made_for,
    only_runner,
    until_one_ends,
)
from taquba.extending.checks import at_least_one, duration_ms, instance, plain_function
from taquba.extending.parking import parked_jobs
from taquba_jobs._attempt import Attempts, Verdict, always_transient
from taquba_jobs._context import Middleware
from taquba_jobs._handle import JobHandle
from taquba_jobs._job import Job
from taquba_jobs._retention import Retention
from taquba_jobs._submission import DEFAULTS, Submissions, SubmitOptions

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_WEEK: Final = timedelta(days=7)
_RETRY_SECONDS: Final = 1.0


class JobRunner(RunsInBackground, Generic[S]):
    """Submits jobs and runs them, in any process with a handle on the store.

    Use it with ``async with``, or await `run`, or have a service run it; submitting works without.

        async with Queue.open("./data") as queue, JobRunner(queue, jobs=[send_email]) as runner:
            handle = await runner.submit(send_email, to="a@b.c", subject="Hi")
            message_id = await handle

    Several processes that share a store through a `taquba.Service` each have a runner, made for it
    before it runs: what one submits runs in any of them.

        service = Service("s3://bucket/app")
        runner = JobRunner(service, jobs=[send_email])
        await run_service(service, runner)

    Args:
        store: A `taquba.Queue`, or a `taquba.Service`.
        jobs: The jobs that this program knows. Others wait for a process that knows them, see
            `parked`.
        state: The value of ``ctx.state`` in the jobs' functions.
        queue_name: The queue of jobs that do not name their own; configure retries, backoff and
            leases under this name. One runner per queue name.
        concurrency: Functions that run at the same time, for each queue, in this process.
        executor: Where plain functions run: any `concurrent.futures.Executor`, or a function that
            makes one and is called again when it breaks, such as
            ``lambda: ProcessPoolExecutor(4)``; threads of this process by default. Functions,
            arguments and results must be picklable for most.
        middleware: Runs around each function; the first one is the outermost.
        classify: Says whether a retry may help after an exception, ``"transient"``, or not,
            ``"permanent"``; by default it may.
        result_retention: How long outcomes and idempotency keys are kept, seconds or `timedelta`;
            None keeps them forever.
        drain_timeout: How long running functions may take at the end, seconds; then they are
            cancelled and their jobs return without spending the attempt. None waits for them.
    """

    @overload
    def __init__(
        self: JobRunner[None],
        store: Store,
        *,
        jobs: Iterable[Job[None, ..., object]],
        queue_name: str = ...,
        concurrency: int = ...,
        executor: ExecutorOrFactory | None = ...,
        middleware: Sequence[Middleware[None]] = ...,
        classify: Callable[[Exception], Verdict] = ...,
        result_retention: Duration | None = ...,
        drain_timeout: Duration | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        store: Store,
        *,
        jobs: Iterable[Job[S, ..., object]],
        state: S,
        queue_name: str = ...,
        concurrency: int = ...,
        executor: ExecutorOrFactory | None = ...,
        middleware: Sequence[Middleware[S]] = ...,
        classify: Callable[[Exception], Verdict] = ...,
        result_retention: Duration | None = ...,
        drain_timeout: Duration | None = ...,
    ) -> None: ...
    def __init__(
        self,
        store: Store,
        *,
        jobs: Iterable[Job[Any, ..., object]],
        state: Any = None,
        queue_name: str = "jobs",
        concurrency: int = 50,
        executor: ExecutorOrFactory | None = None,
        middleware: Sequence[Middleware[Any]] = (),
        classify: Callable[[Exception], Verdict] = always_transient,
        result_retention: Duration | None = _WEEK,
        drain_timeout: Duration | None = None,
    ) -> None:
        instance(store, Store, "store")
        at_least_one(concurrency, "concurrency")
        plain_function(classify, "classify")
        store.config(queue_name)
        self._store = store
        self._queue_name = queue_name
        self._concurrency = concurrency
        self._drain_timeout = drain_timeout
        self._jobs = _by_name(jobs)
        self._retention = Retention(
            store,
            None
            if result_retention is None
            else duration_ms(result_retention, "result_retention", minimum=1),
        )
        self._submissions = Submissions(self._retention, queue_name)
        self._attempts = Attempts(
            self,
            self._retention,
            self._jobs,
            state,
            middleware=tuple(middleware),
            classify=classify,
            executor=executor,
            concurrency=concurrency,
        )
        made_for(store, self)

    @property
    def store(self) -> Store:
        """The handle on the store to which it submits."""
        return self._store

    # -- submit -----------------------------------------------------------------------------

    async def submit(self, job: Job[S, P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Submit a job; durable on return.

        A job with an idempotency key is submitted once: the same key and arguments return a handle
        to the job that is waiting or running, or has ended, as long as its outcome is kept, even
        after a restart. The key of a cancelled job is free again.

        Args:
            job: One of the runner's jobs.
            args: Arguments of its function, without the context.
            kwargs: The same, by name.

        Raises:
            InvalidArgument: The arguments do not fit the function; nothing was written.
            InputMismatch: The key was used with other arguments; nothing was written.
        """
        return await self._submissions.submit(self._known(job), DEFAULTS, *args, **kwargs)

    async def submit_with(
        self, options: SubmitOptions, job: Job[S, P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        """Submit a job with options; otherwise like `submit`."""
        instance(options, SubmitOptions, "options")
        return await self._submissions.submit(self._known(job), options, *args, **kwargs)

    def handle(self, job: Job[S, P, T], job_id: str) -> JobHandle[T]:
        """Return a handle to a job that was submitted before, in this process or an earlier one."""
        return JobHandle(self._retention, self._known(job), job_id, False)

    def _known(self, job: Job[S, P, T]) -> Job[S, P, T]:
        instance(job, Job, "job")
        if self._jobs.get(job.name) is not job:
            raise InvalidArgument(
                f"{job!r} is not one of this runner's jobs: JobRunner(store, jobs=[...])"
            )
        return job

    async def parked(self, limit: int = 100) -> list[JobRecord]:
        """Return the jobs that wait for a program that knows them, or their version.

        `JobRecord.last_error` says why. They are tried again, which spends no attempt, after a
        quarter of their age, between one second and 30, and run once a process that knows them
        gets them.

        Args:
            limit: The most to return, per queue.
        """
        found: list[JobRecord] = []
        for name in self._queue_names():
            in_queue = 0
            async with aclosing(parked_jobs(self._store, name)) as jobs:
                async for job in jobs:
                    if in_queue >= limit:
                        break
                    in_queue += 1
                    found.append(job)
        return found

    # -- run --------------------------------------------------------------------------------

    def _is_heard_of(self, failure: BaseException) -> bool:
        # Of a store that failed every call tells; of workers that ended nobody does who awaits
        # what they were to do.
        return isinstance(failure, StoreError | QueueClosed)

    async def run(self, shutdown: Shutdown | None = None) -> None:
        """Run jobs until `shutdown` is set; running functions get `drain_timeout` to end.

        If it is cancelled, running functions are cancelled too, and their jobs return without
        spending their attempt. It raises the error that ends a worker loop for good: the store is
        fenced or closed.
        """
        handlers = dict.fromkeys(self._queue_names(), self._attempts.process)
        with only_runner(self._store, handlers):
            await self._run(shutdown)

    async def _run(self, shutdown: Shutdown | None) -> None:
        await self._attempts.start()
        try:
            await until_one_ends(
                {
                    "taquba-jobs-workers": self._work(shutdown),
                    "taquba-jobs-retention": self._retention.run(),
                }
            )
        finally:
            self._attempts.close()

    async def _work(self, shutdown: Shutdown | None) -> None:
        specs = [
            WorkerSpec(name, self._attempts.process, concurrency=self._concurrency)
            for name in self._queue_names()
        ]
        while True:
            try:
                return await run_workers(
                    self._store,
                    *specs,
                    shutdown=shutdown,
                    drain_timeout=self._drain_timeout,
                    handle_signals=False,
                )
            except TaqubaError as error:
                if error.permanent:
                    raise
                _log.warning("the store failed, jobs will run again in a moment: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _queue_names(self) -> list[str]:
        own = {job.queue for job in self._jobs.values() if job.queue is not None}
        return [self._queue_name, *sorted(own - {self._queue_name})]


def _by_name(jobs: Iterable[Job[S, ..., object]]) -> dict[str, Job[S, ..., Any]]:
    found: dict[str, Job[S, ..., Any]] = {}
    for job in jobs:
        instance(job, Job, "each of jobs")
        if found.setdefault(job.name, job) is not job:
            raise InvalidArgument(f"two of the jobs have the name {job.name!r}")
        job.signature.resolve()
    return found
