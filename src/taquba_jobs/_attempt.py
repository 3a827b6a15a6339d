"""One attempt at a job: decode, run, and say how it ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

import anyio

from taquba import (
    CancelRequested,
    ClaimLost,
    FailWith,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    RetryAfter,
    SettlementEffects,
    Snooze,
    TaqubaError,
)
from taquba.extending import (
    ExecutorOrFactory,
    Leash,
    NotStarted,
    PlainCall,
    Pool,
    RunTimer,
    awaited,
    describe,
    legible,
    passes_through,
    without_secrets,
)
from taquba.extending.halves import TwoHalves
from taquba.extending.parking import parked, too_new
from taquba.extending.times import to_ms
from taquba.extending.typed import Arguments, Undecodable
from taquba_jobs._context import JobContext, Middleware, Submitter
from taquba_jobs._decisions import NAME, VERSION, Failure, Stored, merged
from taquba_jobs._errors import FailureKind
from taquba_jobs._job import Job
from taquba_jobs._progress import ProgressReports
from taquba_jobs._retention import Retention

S = TypeVar("S")

_log: Final = logging.getLogger(__name__)

Verdict = Literal["transient", "permanent"]
"""Whether trying again can help after an exception."""

_CLEAN_UP_SECONDS: Final = 5.0
"""How long, in real time, a function with a timeout may take to stop."""


class _Cancelled(TaqubaError):
    """The job was asked to cancel, and its function has stopped."""

    def __str__(self) -> str:
        return "it was cancelled while it ran"


class _TimedOut(TaqubaError):
    """The function ran longer than the job's timeout."""

    permanent = False

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(timeout_ms)
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        return f"it ran longer than its timeout of {self.timeout_ms / 1000:g} s"


class _LeftBehind(TaqubaError):
    """A function continued after it was cancelled, and nobody waits for it any longer."""


class Succeeded(NamedTuple):
    """The function has returned."""

    result: Stored
    reported: bool
    """Whether it may have reported its progress."""


class Failed(NamedTuple):
    """The attempt has failed; the effects of that apply if it was the last."""

    failure: Failure
    cause: str | BaseException
    """What the attempt fails with."""
    own: SettlementEffects | None
    """Effects that the function asked for."""
    reported: bool
    error: BaseException
    """What the function raised, for logs and traces."""


class PutOff(NamedTuple):
    """The function has come to no end: its job goes back."""

    error: Snooze | NotStarted


class Attempts(TwoHalves[JobRecord, Succeeded | Failed | PutOff, Succeeded | Failed], Generic[S]):
    """The handler of a runner's queues. Its arguments are the runner's."""

    def __init__(
        self,
        runner: Submitter[S],
        retention: Retention,
        jobs: Mapping[str, Job[S, ..., object]],
        state: S,
        *,
        middleware: Sequence[Middleware[S]],
        classify: Callable[[Exception], Verdict],
        executor: ExecutorOrFactory | None,
        concurrency: int,
    ) -> None:
        super().__init__()
        self._runner = runner
        self._retention = retention
        self._jobs = jobs
        self._state = state
        self._middleware = middleware
        self._classify = classify
        plain = [job for job in jobs.values() if not job.is_async]
        self._pool = None if executor is None else Pool(executor, runner.store.clock, plain)
        self._concurrency = concurrency
        self._threads = anyio.CapacityLimiter(concurrency)

    async def start(self) -> None:
        """Make the executor, if there is a maker."""
        if self._pool is not None:
            await self._pool.start(self._concurrency)

    def close(self) -> None:
        """No function runs any longer: shut down the executor, if the runner made it."""
        if self._pool is not None:
            self._pool.close()

    def read(self, job: JobRecord) -> JobRecord:
        """The job itself: whether it can be decoded is its function's business."""
        return job

    # -- around the function ----------------------------------------------------------------

    async def perform(self, work: JobRecord, lease: LeaseHandle) -> Succeeded | Failed | PutOff:
        """Run a job's function."""
        reports = ProgressReports(self._runner.store, work, lease)
        try:
            stored = await self._result(work, lease, reports)
            await reports.close()
            return Succeeded(stored, reports.any)
        except BaseException as raised:
            error = _whole(legible(raised))
            if passes_through(error):
                # The worker was told to stop: the job returns without spending its attempt.
                raise
            await reports.close()
            if isinstance(error, Snooze | NotStarted):
                return PutOff(error)
            return self._failed(error, reports.any)
        finally:
            reports.stop()

    async def _result(
        self, record: JobRecord, lease: LeaseHandle, reports: ProgressReports
    ) -> Stored:
        """What the function returned, where it is kept."""
        if lease.cancel_token.cancelled:
            raise _Cancelled
        job, version = self._job_of(record)
        values = job.decode(record.payload, version)
        ctx = self._context(job, record, lease, reports)
        result = await self._run(job, ctx, values, lease)
        return await self._retention.put_away(record.id, job.signature.pack_result(result))

    def _job_of(self, record: JobRecord) -> tuple[Job[S, ..., object], int]:
        """The job's code, if this program has it and it is new enough."""
        name = record.headers.get(NAME)
        job = None if name is None else self._jobs.get(name)
        if job is None:
            why = "it names no job" if name is None else f"no job {name!r} is known here"
            raise parked(why, self._age_ms(record))
        version = _version(record)
        if version > job.version:
            raise too_new(version, f"job {name!r}", job.version, self._age_ms(record))
        return job, version

    def _age_ms(self, record: JobRecord) -> int:
        return self._runner.store.clock.time_ms() - to_ms(record.enqueued_at)

    def _context(
        self,
        job: Job[S, ..., object],
        record: JobRecord,
        lease: LeaseHandle,
        reports: ProgressReports,
    ) -> JobContext[S]:
        return JobContext(
            record.id,
            job.name,
            record.attempts,
            record.headers,
            lease,
            state=self._state,
            runner=self._runner,
            progress=reports,
        )

    async def _run(
        self,
        job: Job[S, ..., object],
        ctx: JobContext[S],
        values: Mapping[str, Any],
        lease: LeaseHandle,
    ) -> object:
        clock = self._runner.store.clock
        undone: list[NotStarted] = []

        async def call_function(ctx: JobContext[S]) -> object:
            call = job.signature.call(values)
            if job.is_async:
                return await awaited(_call(job, ctx, call))
            work = PlainCall(clock, lease)
            if self._pool is not None:
                try:
                    return await work.in_executor(self._pool, _call_elsewhere, job, ctx, call)
                except NotStarted as why:
                    undone.append(why)
                    raise
            return await awaited(await work.in_thread(self._threads, _call, job, ctx, call))

        call_next: Callable[[JobContext[S]], Awaitable[object]] = call_function
        for middleware in reversed(self._middleware):
            call_next = _around(middleware, call_next)
        # A middleware may be a plain function.
        call = awaited(call_next(ctx)) if self._middleware else call_function(ctx)
        try:
            return await self._bounded(call, job.timeout_ms, lease)
        finally:
            if undone:
                # Whatever the middleware does then: the function has not ended.
                raise undone[0]

    async def _bounded(
        self, call: Awaitable[object], timeout_ms: int | None, lease: LeaseHandle
    ) -> object:
        """Await `call`; cancel it when its job is asked to cancel or it takes too long."""
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)
        token = lease.cancel_token
        running = True
        # A function without a timeout may take any time to stop.
        leash = None if timeout_ms is None else Leash(call)
        patience: asyncio.TimerHandle | None = None

        def stop() -> None:
            nonlocal patience
            if running and not limit.expired():
                limit.reschedule(loop.time())
                if leash is not None and patience is None:
                    patience = loop.call_later(_CLEAN_UP_SECONDS, leash.leave, _LeftBehind())

        timer = None
        try:
            async with limit:
                token.on_cancel(stop)
                if timeout_ms is not None:
                    clock = self._runner.store.clock
                    timer = RunTimer(clock, lease, timeout_ms, stop, self._pool)
                return await (call if leash is None else leash)
        except (TimeoutError, _LeftBehind):
            if not limit.expired():
                raise
            if token.cancelled:
                raise _Cancelled from None
            assert timeout_ms is not None
            raise _TimedOut(timeout_ms) from None
        finally:
            running = False
            if patience is not None:
                patience.cancel()
            if timer is not None:
                timer.cancel()

    def _failed(self, error: BaseException, reported: bool) -> Failed:
        own: SettlementEffects | None = None
        if isinstance(error, FailWith):
            own = error.effects
            inner = error.error
            error = error if isinstance(inner, str) else _whole(legible(inner))
        failure = Failure(_kind(error), describe(error, bare=_SAY_ALL))
        return Failed(failure, self._cause(failure, error), own, reported, error)

    def _cause(self, failure: Failure, error: BaseException) -> str | BaseException:
        if isinstance(error, PermanentFailure | RetryAfter):
            return error
        if failure.kind in (FailureKind.CANCELLED, FailureKind.INVALID):
            return PermanentFailure(failure.message)
        if isinstance(error, Exception) and self._is_permanent(error):
            return PermanentFailure(failure.message)
        return failure.message

    def _is_permanent(self, error: Exception) -> bool:
        """The verdict of the runner's `classify`; the attempt has failed even if that raises."""
        try:
            return self._classify(error) == "permanent"
        except BaseException as failed:
            if passes_through(failed):
                raise
            _log.error(
                "classify() failed for an error of type %s",
                type(error).__name__,
                exc_info=without_secrets(failed),
            )
            return False

    # -- at the settlement ------------------------------------------------------------------

    def judge(
        self, work: JobRecord, verdict: Succeeded | Failed | PutOff, lease: LeaseHandle
    ) -> Succeeded | Failed:
        """A job that was asked to cancel has failed, whatever its function made of that."""
        if not isinstance(verdict, Succeeded) and _is_asked_to_cancel(lease):
            own = verdict.own if isinstance(verdict, Failed) else None
            return self._failed(FailWith(_Cancelled(), own or SettlementEffects()), True)
        if isinstance(verdict, PutOff):
            raise verdict.error
        return verdict

    async def conclude(
        self, work: JobRecord, decision: Succeeded | Failed, lease: LeaseHandle
    ) -> SettlementEffects:
        """What lands with the acknowledgement; raises what lands if no attempt is left."""
        result = decision.result if isinstance(decision, Succeeded) else decision.failure
        ending = self._retention.end(work, result, reported=decision.reported)
        lease.on_end(ending.landed)
        if isinstance(decision, Succeeded):
            return ending.effects
        own = decision.own
        effects = ending.effects if own is None else merged(own, ending.effects)
        raise FailWith(decision.cause, effects) from decision.error


def _version(record: JobRecord) -> int:
    text = record.headers.get(VERSION, "")
    if not text.isdecimal():
        raise Undecodable(f"its header {VERSION!r} is {text!r}, not a version")
    return int(text)


def always_transient(error: Exception) -> Verdict:
    """Treat every exception as transient: the default of a runner's `classify`."""
    del error
    return "transient"


def _call(job: Job[S, ..., object], ctx: JobContext[S], call: Arguments) -> object:
    return job.function(ctx, *call.args, **call.kwargs)


def _call_elsewhere(job: Job[S, ..., object], ctx: JobContext[S], call: Arguments) -> object:
    result = _call(job, ctx, call)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise PermanentFailure(
            f"job {job.name!r} is a plain function that returns an awaitable, which "
            "cannot leave an executor: wrap it in an `async def`"
        )
    return result


def _around(
    middleware: Middleware[S], call_next: Callable[[JobContext[S]], Awaitable[object]]
) -> Callable[[JobContext[S]], Awaitable[object]]:
    return lambda ctx: middleware(ctx, call_next)


def _is_asked_to_cancel(lease: LeaseHandle) -> bool:
    """Whether the job was cancelled; its lease shows that a moment before the token fires."""
    if lease.cancel_token.cancelled:
        return True
    try:
        lease.ensure_at_least(0)
    except CancelRequested:
        return True
    except ClaimLost:
        return False
    return False


def _whole(error: BaseException) -> BaseException:
    """An error that says what its class promises: itself, or why it does not.

    A subclass may have a constructor that leaves out the one of its base.
    """
    try:
        if isinstance(error, RetryAfter | Snooze):
            _ = error.delay_ms
        elif isinstance(error, FailWith):
            _ = error.error, error.effects
    except Exception as unmade:
        return unmade
    return error


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, _Cancelled | CancelRequested):
        return FailureKind.CANCELLED
    if isinstance(error, _TimedOut):
        return FailureKind.TIMED_OUT
    if isinstance(error, Undecodable):
        return FailureKind.INVALID
    return FailureKind.ERROR


_SAY_ALL: Final = (PermanentFailure, RetryAfter, FailWith, Undecodable, _Cancelled, _TimedOut)
"""Errors whose message is sufficient without the type."""
