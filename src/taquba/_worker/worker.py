"""`run_worker`: claim jobs, run a handler on each, settle, until it must stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, cast, get_args

import anyio

from taquba._interface.claim import HeldClaim, is_held, lease_of
from taquba._interface.store import Store
from taquba._model import validate
from taquba._model.clock import Timer, wait_until_done
from taquba._model.ending import contained, ends_program, legible
from taquba._model.errors import CancelRequested, EntryChanged, InvalidArgument, TaqubaError
from taquba._model.log_fields import about_job, about_queue
from taquba._model.options import MAX_ATTEMPTS, SettlementEffects
from taquba._model.own_tasks import leave_behind
from taquba._model.redaction import without_secrets
from taquba._model.validate import Duration
from taquba._worker.handlers import (
    AsyncHandler,
    Handler,
    as_async,
    check_handler,
    is_async,
    returned,
)
from taquba._worker.lease_handle import LeaseHandle
from taquba._worker.outcomes import (
    FailWith,
    LostProcess,
    NotStarted,
    PermanentFailure,
    RetryAfter,
    Snooze,
    reason_of,
)
from taquba._worker.overrun import LoopWatch, Overran, OwnProcess
from taquba._worker.plain import RunTimer
from taquba._worker.pools import ExecutorOrFactory, Pool
from taquba._worker.shutdown import Shutdown, check_shutdown
from taquba._worker.source import JobSource
from taquba._worker.sources import source_of
from taquba._worker.until_empty import UntilEmpty

_log: Final = logging.getLogger(__name__)

_MAX_CONCURRENCY: Final = 10_000
_RENEWALS_PER_LEASE: Final = 3
_TASKS_PER_HANDLER: Final = 4
"""Settlements overlap with the next handlers, but do not pile up without a limit: after a crash,
jobs that were handled and not settled are handled again. With short handlers a flush carries more
settlements than handlers run at a time."""
_VERDICTS: Final = (PermanentFailure, FailWith, RetryAfter, Snooze, NotStarted)

_CANCELLED: Final = "cancelled on request"

_WAITS_AFTER_SECONDS: Final = 0.5
"""Real time after which a call that its executor has not begun is considered waiting."""

_ABANDONED_AFTER_SECONDS: Final = 5.0
"""How long a cancelled handler may take to clean up, in real time. A handler that has not ended by
then is left behind: a container is killed ten seconds after it was asked to stop."""

_WHEN_ASKED_AGAIN_SECONDS: Final = 0.5
"""How long it may take once the worker loop itself is cancelled again."""

OnCancel = Literal["notify", "interrupt"]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker loop for `run_workers` or a `Service`; most fields are arguments of `run_worker`.

    Two are for a `Service` only:

    Attributes:
        processes: How many child processes run it, each with `concurrency` jobs at a time; None or
            0, the default, runs it in this process. The handler must be importable in another
            process: a function at the top level of a module, or an object that can be pickled.
            A process that dies is replaced.
        kill: With `processes` and `timeout`: a function that does not end by its timeout ends its
            process. Only its own job pays: the attempt has failed, and the other jobs of the
            process return unspent. An async handler gets five seconds to end after it was
            cancelled, and so does a blocked event loop.
    """

    queue: str
    handler: Handler
    concurrency: int = field(default=1, kw_only=True)
    lease: Duration | None = field(default=None, kw_only=True)
    poll_interval: Duration = field(default=1, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    auto_renew: bool = field(default=True, kw_only=True)
    executor: ExecutorOrFactory | None = field(default=None, kw_only=True)
    on_cancel: OnCancel = field(default="notify", kw_only=True)
    processes: int | None = field(default=None, kw_only=True)
    kill: bool = field(default=False, kw_only=True)


async def run_worker(
    store: Store,
    queue: str,
    handler: Handler,
    *,
    concurrency: int = 1,
    lease: Duration | None = None,
    poll_interval: Duration = 1,
    timeout: Duration | None = None,
    auto_renew: bool = True,
    executor: ExecutorOrFactory | None = None,
    on_cancel: OnCancel = "notify",
    shutdown: Shutdown | None = None,
    drain_timeout: Duration | None = None,
    until_empty: bool = False,
) -> None:
    """Run `handler` on the jobs of a queue until `shutdown` is set, or nothing is left to run.

    When the handler returns, the job is acknowledged, with the `SettlementEffects` that it
    returned. An exception retries the job; `PermanentFailure`, `FailWith`, `RetryAfter` and
    `Snooze` decide otherwise. A settlement that fails is logged and the loop continues; a claim
    that fails ends it.

    Args:
        store: An open `Queue`.
        queue: Name of the queue. Several loops of a process may serve it, if they have the same
            handler: otherwise each would take the other's jobs, and the second one is refused.
        handler: ``async def handler(job, lease)``, a plain function (run in a worker thread, or in
            `executor`), or an object with ``process(job, lease)``.
        concurrency: Handlers that run at the same time. In addition, at most three times as many
            may have returned while their settlement is on its way to the store; after a crash those
            run again.
        lease: Lease of each claim, seconds; default: the queue's.
        poll_interval: Longest time, in real seconds, until the worker looks at the queue again
            although nothing woke it.
        timeout: Seconds, on the queue's clock, after which a handler is cancelled and its attempt
            fails. The thread of a plain function cannot be stopped and continues unobserved.
        auto_renew: Renew the lease of a running handler.
        executor: Where a plain handler runs: an executor, or a function that makes one, such as
            ``lambda: ProcessPoolExecutor(4)``, which is called again when the executor breaks. A
            ready-made executor that breaks ends the loop with its error.
        on_cancel: What happens to a running handler whose job is asked to cancel: ``"notify"``
            only fires its cancel token, ``"interrupt"`` cancels it and dead-letters the job.
        shutdown: Stop claiming when it is set, and return when running handlers are done.
        drain_timeout: How long running handlers may take after that, seconds; then they are
            cancelled and their jobs return without spending the attempt. None waits for them.
        until_empty: Return when nothing is pending that may run now, and no handler of this loop
            runs. Jobs that are enqueued meanwhile, retries that are due at once, suspects, and
            scheduled jobs that come due meanwhile are run; scheduled jobs that are not due yet,
            such as retries with a backoff and snoozed jobs, are left. A queue that was opened with
            an inbox takes the batches in it before this returns, and a `StoreError` is raised if
            it cannot list them. Jobs that others hold claimed are not waited for, and jobs that
            these enqueue are run only if they arrive in time; `run_workers` has several loops wait
            for each other.
    """
    spec = WorkerSpec(
        queue,
        handler,
        concurrency=concurrency,
        lease=lease,
        poll_interval=poll_interval,
        timeout=timeout,
        auto_renew=auto_renew,
        executor=executor,
        on_cancel=on_cancel,
    )
    group = UntilEmpty(1) if until_empty else None
    source = source_of(store, spec.queue, spec.lease)
    await source.enter()
    await Worker(source, spec, drain_timeout, group).run(shutdown)


class Worker:
    """One worker loop: a claimer that keeps handlers supplied, and the tasks they run in.

    Args:
        source: Where the jobs come from.
        spec: What runs on which queue, and how.
        drain_timeout: As for `run_worker`.
        group: The loops with which it ends when nothing is left to run, if it should.
    """

    def __init__(
        self,
        source: JobSource,
        spec: WorkerSpec,
        drain_timeout: Duration | None = None,
        group: UntilEmpty | None = None,
    ) -> None:
        source.check()
        if spec.on_cancel not in get_args(OnCancel):
            raise InvalidArgument(
                f"on_cancel must be 'notify' or 'interrupt'; got {spec.on_cancel!r}"
            )
        if spec.processes or (spec.kill and not OwnProcess.is_one):
            raise InvalidArgument(
                f"the WorkerSpec of queue {spec.queue!r} has "
                f"{'processes' if spec.processes else 'kill'}={spec.processes or spec.kill}, and "
                "only a Service starts processes: use Service(url, [WorkerSpec(...)])"
            )
        self.source = source
        self._group = group
        self._handler = spec.handler
        self._concurrency = validate.integer(spec.concurrency, "concurrency", 1, _MAX_CONCURRENCY)
        call = check_handler(spec.handler, spec.executor)
        self._pool = None if spec.executor is None else Pool(spec.executor, source.clock, (call,))
        self._handle: AsyncHandler = as_async(
            spec.handler, self._pool, self._concurrency, source.clock
        )
        poll_ms = validate.duration_ms(spec.poll_interval, "poll_interval", minimum=1)
        self._poll_seconds = poll_ms / 1000
        self._timeout_ms = validate.optional_duration_ms(spec.timeout, "timeout", minimum=1)
        self._drain_ms = validate.optional_duration_ms(drain_timeout, "drain_timeout")
        self._auto_renew = spec.auto_renew
        self._interrupts = spec.on_cancel == "interrupt"
        self._is_plain = not is_async(spec.handler)
        self._watch: LoopWatch | None = None
        if spec.kill and self._timeout_ms is not None:
            seconds = self._timeout_ms / 1000 + _ABANDONED_AFTER_SECONDS
            self._watch = LoopWatch(source.loop, seconds, lambda: bool(self._running))
        self._running: dict[asyncio.Task[None], HeldClaim] = {}
        """Tasks whose handler runs; one that settles has left, but is still in `_tasks`."""
        self._tasks: dict[asyncio.Task[None], HeldClaim] = {}
        self._stopped: list[HeldClaim] = []
        """Jobs whose handlers were cancelled because the worker stops, on their way back."""
        self._interrupted: set[asyncio.Task[None]] = set()
        """Tasks that were cancelled because the worker stops."""
        self._wake = asyncio.Event()
        """Something changed: a task ended, a job arrived, or it is time to stop."""
        self._renewal: Timer | None = None
        self._failure: BaseException | None = None
        """The error that ends the loop, because it can no longer run handlers."""
        self._ending = False
        """Whether nothing more is claimed, because of that error or because nothing is left."""
        self._stopping = False

    async def run(self, shutdown: Shutdown | None) -> None:
        check_shutdown(shutdown)
        if shutdown is not None and shutdown.is_set():
            return
        self.source.attach(self, self._handler)
        stopping = asyncio.ensure_future(_wait_for(shutdown))
        stopping.add_done_callback(lambda _: self._wake.set())
        try:
            self.source.begin_claiming(self._handler, self._concurrency)
            try:
                if self._pool is not None:
                    await self._pool.start(self._concurrency)
                if self.source.lets_suspects_pass:
                    await asyncio.sleep(0)
                await self._claim_until(stopping)
            finally:
                # One that drains claims nothing: another handler may take its place.
                self.source.end_claiming(self._handler)
            self._stopping = self._failure is None
            await self._drain(self._drain_ms)
            if stopping.cancelled():
                raise TaqubaError(
                    f"the wait of queue {self.source.queue!r} for its shutdown was cancelled from "
                    "outside: this worker has ended"
                )
        finally:
            stopping.cancel()
            if self._group is not None:
                self._group.close()
            try:
                await self._stop()
                if self._watch is not None:
                    self._watch.end()
            finally:
                self.source.detach(self)
        if self._failure is not None:
            raise self._failure

    def end(self, failure: BaseException | None = None) -> None:
        """Claim nothing more; `run` drains, and then returns or raises `failure`."""
        self._failure = self._failure or failure
        self._ending = True
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def held(self) -> Iterable[HeldClaim]:
        return self._tasks.values()

    async def work_on(self, claim: HeldClaim) -> None:
        """Run the handler on one job and settle it, for a caller that made the claim itself."""
        self._start(claim)
        try:
            await self._drain(None)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        # After a clean drain nothing is left here; otherwise the jobs return without spending an
        # attempt. An anyio scope would cancel every await of this, too.
        with anyio.CancelScope(shield=True):
            await self._drain(0)
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._pool is not None:
            self._pool.close()

    async def _claim_until(self, stopping: asyncio.Future[None]) -> None:
        while not stopping.done() and not self._ending:
            self.source.check()
            self._wake.clear()
            free = self._concurrency - len(self._running)
            if free <= 0 or len(self._tasks) >= _TASKS_PER_HANDLER * self._concurrency:
                await self._wake.wait()
                continue
            found = await self.source.take(free)
            for claim in found:
                self._start(claim)
            if not found:
                await self._wait_for_jobs(stopping)
            elif self._group is not None:
                self._group.starts_jobs()

    async def _wait_for_jobs(self, stopping: asyncio.Future[None]) -> None:
        joined = self.source.join(self)
        poll = self.source.loop.call_later(self._poll_seconds, self._wake.set)
        goes_on = False
        group = self._group
        try:
            if group is not None and not self._tasks:
                group.rests(self)
            await self._wake.wait()
            goes_on = not stopping.done() and not self._ending
        finally:
            poll.cancel()
            if group is not None:
                group.stirs(self)
            self.source.leave(joined, goes_on=goes_on)

    def _start(self, claim: HeldClaim) -> None:
        task = asyncio.create_task(self.process(claim))
        self._running[task] = claim
        self._tasks[task] = claim
        task.add_done_callback(self._ended)
        if self._watch is not None:
            self._watch.begin()
        if self._auto_renew and self._renewal is None:
            self._arm_renewal()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        unbegun = self._running.pop(task, None)
        if unbegun is not None:
            # It was cancelled before its first step.
            self._put_back([unbegun], "its handler was cancelled")
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "a worker task of queue %r failed",
                self.source.queue,
                exc_info=without_secrets(error),
                extra=about_queue(self.source.queue),
            )

    def _arm_renewal(self) -> None:
        period_ms = max(1, self.source.lease_ms // _RENEWALS_PER_LEASE)
        self._renewal = self.source.clock.call_later(period_ms, self._renew_leases)

    def _renew_leases(self) -> None:
        """Keep the leases of running handlers alive, all in one pass."""
        self._renewal = None
        self.source.keep_alive(self._running.values())
        if self._running:
            self._arm_renewal()

    async def process(self, claim: HeldClaim) -> None:
        """Run the handler on one job and settle it; a failing settlement is only logged."""
        failure: BaseException | None = None
        effects: SettlementEffects | None = None
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            if claim.payload_ref is not None and not await self.source.load(claim):
                return
            effects = await self.source.processing(claim, self._call(claim))
            if effects is not None:
                effects = returned(effects)
        except BaseException as raised:
            error = legible(raised)
            if ends_program(error):
                self._put_back([claim], "the program ended")
                raise
            if self._was_stopped(task, error):
                if task not in self._interrupted:
                    # It was cancelled by somebody else, such as the end of the event loop.
                    self._put_back([claim], "its handler was cancelled")
                raise asyncio.CancelledError from error
            failure = error
        finally:
            self._running.pop(task, None)
            self._wake.set()
        try:
            await self._settle(claim, effects, failure)
        except TaqubaError as error:
            _log.warning("job %s could not be settled: %s", claim.id, error, extra=about_job(claim))
        except asyncio.CancelledError:
            # Nothing, if it was decided already.
            self._put_back([claim], "its settlement was cancelled")
            raise

    def _was_stopped(self, task: asyncio.Task[None], error: BaseException) -> bool:
        """Whether the handler ended because the worker did: then its job returns, unspent."""
        if isinstance(error, asyncio.CancelledError):
            # One that this task was not sent comes out of something the handler waited for.
            return task.cancelling() > 0
        return task in self._interrupted and not isinstance(error, _VERDICTS)

    async def _settle(
        self, claim: HeldClaim, effects: SettlementEffects | None, failure: BaseException | None
    ) -> None:
        while True:
            try:
                if failure is None:
                    await self.source.ack(claim, effects)
                else:
                    await self._settle_failure(claim, failure)
                return
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) or ends_program(error):
                    raise
                refused = isinstance(error, EntryChanged)
                transient = isinstance(error, TaqubaError) and not error.permanent
                if (transient and not refused) or not is_held(claim):
                    # Nobody knows whether it was applied, and a store that recovers would record a
                    # failure that did not happen: let the lease expire instead.
                    raise
                again = lease_of(claim).again
                if again is None or not (refused or isinstance(error, CancelRequested)):
                    # The decision was refused, or could not be understood, so nothing was settled:
                    # the attempt failed.
                    await self._fail(claim, error)
                    return
                if not refused:
                    lease_of(claim).hear_of_cancel()
            effects, failure = await self._decide_again(again)

    async def _decide_again(
        self, decide: Callable[[], Awaitable[SettlementEffects | None]]
    ) -> tuple[SettlementEffects | None, BaseException | None]:
        """What a handler decides now that the store has changed."""
        try:
            effects = await contained(decide())
            return (None if effects is None else returned(effects)), None
        except BaseException as raised:
            error = legible(raised)
            if isinstance(error, asyncio.CancelledError) or ends_program(error):
                raise
            return None, error

    def let_go(self) -> None:
        """The queue closes before this worker has ended: nothing can be settled after that."""
        self._put_back([*self._running.values(), *self._stopped], "the queue was closed")

    def _put_back(self, stopped: list[HeldClaim], why: str) -> Awaitable[None] | None:
        """Return the jobs that are still held, without spending their attempts."""
        return self.source.release(stopped, why)

    async def _call(self, claim: HeldClaim) -> SettlementEffects | None:
        handle = LeaseHandle(self.source, claim)
        if self._timeout_ms is None and not self._interrupts:
            return await self._handle(claim.job, handle)
        call = self._call_interruptibly if self._interrupts else self._call_plainly
        if self._timeout_ms is None:
            return await call(claim, handle)
        if self._watch is not None:
            work = partial(call, claim, handle)
            return await self._call_or_end(claim, work, handle, self._timeout_ms, self._watch)
        return await self._call_in_time(call(claim, handle), handle, self._timeout_ms)

    async def _call_in_time(
        self,
        call: Awaitable[SettlementEffects | None],
        handle: LeaseHandle,
        timeout_ms: int,
    ) -> SettlementEffects | None:
        loop = self.source.loop
        limit = asyncio.timeout(None)
        timer = RunTimer(
            self.source.clock,
            handle,
            timeout_ms,
            lambda: limit.reschedule(loop.time()),
            self._pool,
        )
        try:
            async with limit:
                return await call
        except TimeoutError:
            if limit.expired():
                raise _too_long(timeout_ms) from None
            raise
        finally:
            timer.cancel()

    async def _call_or_end(
        self,
        claim: HeldClaim,
        call: Callable[[], Awaitable[SettlementEffects | None]],
        handle: LeaseHandle,
        timeout_ms: int,
        watch: LoopWatch,
    ) -> SettlementEffects | None:
        """Call a function that ends this process if it does not end by its timeout."""
        running = asyncio.ensure_future(_contained(call))
        due: asyncio.Future[None] = self.source.loop.create_future()
        timer = RunTimer(self.source.clock, handle, timeout_ms, partial(_set, due))
        try:
            either: set[asyncio.Future[Any]] = {running, due}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _cancel(running)
            raise
        finally:
            timer.cancel()
            due.cancel()
        if running.done():
            return running.result()
        ended = await _cancel(running)
        if self._is_plain or not ended:
            self._end_process(claim, watch)
        if ended and not running.cancelled():
            return running.result()
        raise _too_long(timeout_ms)

    def _end_process(self, claim: HeldClaim, watch: LoopWatch) -> None:
        """Settle what ends now, and let the jobs of this process return; then it ends."""
        _log.error(
            "the handler of job %s of queue %r does not end by its timeout: its process ends",
            claim.id,
            claim.queue,
            extra=about_job(claim),
        )
        watch.must_end()
        self._drain_ms = 0
        self.end(Overran(f"job {claim.id} does not end by its timeout"))

    async def _call_plainly(
        self, claim: HeldClaim, handle: LeaseHandle
    ) -> SettlementEffects | None:
        return await self._handle(claim.job, handle)

    async def _call_interruptibly(
        self, claim: HeldClaim, handle: LeaseHandle
    ) -> SettlementEffects | None:
        call = asyncio.ensure_future(self._call_contained(claim, handle))
        asked: asyncio.Future[None] = self.source.loop.create_future()
        claim.cancel_token.on_cancel(partial(_set, asked))
        try:
            either: set[asyncio.Future[Any]] = {call, asked}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise PermanentFailure(_CANCELLED)
            return await call
        finally:
            asked.cancel()
            if not call.done():
                call.cancel()
                # Whatever its clean-up raises: the job ends as it was asked to.
                await asyncio.gather(call, return_exceptions=True)

    async def _call_contained(
        self, claim: HeldClaim, handle: LeaseHandle
    ) -> SettlementEffects | None:
        # Made here: a task that is cancelled before its first step would leave it unawaited.
        return await contained(self._handle(claim.job, handle))

    async def _settle_failure(self, claim: HeldClaim, failure: BaseException) -> None:
        effects: SettlementEffects | None = None
        cause: str | BaseException = failure
        if isinstance(failure, FailWith):
            effects, cause = failure.effects, failure.error
        if isinstance(cause, CancelRequested):
            # The lease refused to be extended: the handler stopped as it was asked to.
            cause = PermanentFailure(_CANCELLED)
        if isinstance(cause, NotStarted):
            await self._give_back_unfinished(claim, cause)
        elif isinstance(cause, Snooze):
            await self.source.snooze(claim, cause.reason, cause.delay_ms)
        elif isinstance(cause, PermanentFailure):
            await self.source.dead_letter(claim, reason_of(cause), effects)
            _log_failure(claim, cause, retried=False)
        else:
            delay_ms = cause.delay_ms if isinstance(cause, RetryAfter) else None
            await self._fail(claim, cause, effects, delay_ms)

    async def _give_back_unfinished(self, claim: HeldClaim, why: NotStarted) -> None:
        """The job's function was not started, or the process that ran it died."""
        if why.ends_worker is not None and self._failure is None:
            _log.error(
                "the worker of queue %r ends: %s",
                self.source.queue,
                why,
                extra=about_queue(self.source.queue),
            )
            self.end(why.ends_worker)
        if isinstance(why, LostProcess) and not self._stopping:
            _log.warning("job %s was lost: %s", claim.id, why, extra=about_job(claim))
            landed = self.source.lose_process(claim, str(why))
        else:
            # The signal that stops this worker may have reached the processes of its executor as
            # well.
            landed = self._put_back([claim], str(why))
        if landed is not None:
            await landed

    async def _fail(
        self,
        claim: HeldClaim,
        cause: str | BaseException,
        effects: SettlementEffects | None = None,
        delay_ms: int | None = None,
    ) -> None:
        """The attempt failed."""
        retried = await self.source.nack(claim, reason_of(cause), effects, delay_ms)
        _log_failure(claim, cause, retried=retried)

    async def _drain(self, timeout_ms: int | None) -> None:
        """Wait for running handlers and settlements; return the jobs that are not done in time."""
        if timeout_ms is None:
            timeout_ms = validate.MAX_DURATION_MS
        if self._tasks and timeout_ms:
            for claim in self._running.values():
                call = lease_of(claim).call
                if call is not None:
                    # Calls that wait for their turn need not begin any longer.
                    self.source.loop.call_later(_WAITS_AFTER_SECONDS, call.withdraw)
            ended = asyncio.ensure_future(asyncio.wait(set(self._tasks)))
            try:
                await wait_until_done(ended, self.source.clock, timeout_ms)
            finally:
                ended.cancel()
        unfinished = dict(self._running)
        self._stopped = list(unfinished.values())
        try:
            await self._interrupt(unfinished)
            if self._tasks:
                await asyncio.wait(set(self._tasks))
        finally:
            # Also where this is cancelled, again.
            given_back = self._put_back(self._stopped, "the worker shut down")
        if given_back is not None:
            try:
                await asyncio.shield(asyncio.ensure_future(given_back))
            except TaqubaError as error:
                _log.warning(
                    "could not give back %d jobs of queue %r: %s",
                    len(unfinished),
                    self.source.queue,
                    error,
                    extra=about_queue(self.source.queue),
                )

    async def _interrupt(self, unfinished: Mapping[asyncio.Task[None], HeldClaim]) -> None:
        """Cancel running handlers; those that ignore it are left behind."""
        self._interrupted.update(unfinished)
        for task in unfinished:
            task.cancel()
        loop = self.source.loop
        deadline = loop.time() + _ABANDONED_AFTER_SECONDS
        cancelled: asyncio.CancelledError | None = None
        while any(not task.done() for task in unfinished) and loop.time() < deadline:
            try:
                await asyncio.wait(unfinished, timeout=deadline - loop.time())
            except asyncio.CancelledError as again:
                # A caller that cancels this again wants to leave now; handlers that obey a
                # cancellation do so at once.
                cancelled = again
                deadline = min(deadline, loop.time() + _WHEN_ASKED_AGAIN_SECONDS)
        for task, claim in unfinished.items():
            if task in self._running:
                self._running.pop(task)
                self._tasks.pop(task, None)
                leave_behind(task)
                _log.error(
                    "the handler of job %s of queue %r does not end although it was cancelled: "
                    "it is left behind, and its job returns to the queue",
                    claim.id,
                    claim.queue,
                    extra=about_job(claim),
                )
        if cancelled is not None:
            raise cancelled


def _log_failure(claim: HeldClaim, cause: str | BaseException, *, retried: bool) -> None:
    """Log a handler's failure: only the log has its traceback."""
    unforeseen = (
        cause if isinstance(cause, BaseException) and not isinstance(cause, _VERDICTS) else None
    )
    _log.log(
        logging.INFO if retried else logging.WARNING,
        "job %s of queue %r failed in attempt %d%s and %s: %s",
        claim.id,
        claim.queue,
        claim.attempts,
        "" if claim.max_attempts == MAX_ATTEMPTS else f" of {claim.max_attempts}",
        "will be tried again" if retried else "is now a dead letter",
        reason_of(cause),
        exc_info=None if unforeseen is None else without_secrets(unforeseen),
        extra=about_job(claim),
    )


def _too_long(timeout_ms: int) -> TimeoutError:
    return TimeoutError(f"the handler ran longer than its timeout of {timeout_ms / 1000:g} s")


async def _contained(
    call: Callable[[], Awaitable[SettlementEffects | None]],
) -> SettlementEffects | None:
    # Called here: a task that is cancelled before its first step would leave it unawaited.
    return await contained(call())


async def _cancel(task: asyncio.Task[Any]) -> bool:
    """Cancel a task; returns whether it ends. One that does not is left behind."""
    task.cancel()
    try:
        await asyncio.wait([task], timeout=_ABANDONED_AFTER_SECONDS)
    finally:
        if not task.done():
            leave_behind(task)
        elif not task.cancelled():
            # Nobody need ask for it.
            task.exception()
    return task.done()


def _set(asked: asyncio.Future[None]) -> None:
    if not asked.done():
        asked.set_result(None)


async def _wait_for(shutdown: Shutdown | None) -> None:
    if shutdown is None:
        await asyncio.get_running_loop().create_future()
    else:
        await shutdown.wait()
