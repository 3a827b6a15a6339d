"""The handler that runs tasks."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import replace
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db import close_old_connections
from django.utils import timezone

from taquba import (
    FailWith,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    RetryAfter,
    SettlementEffects,
    Snooze,
    Store,
    TaqubaError,
)
from taquba.extending import awaited, legible
from taquba.extending.expiries import Expiries, Expiry
from taquba.integrations.django._backend import TaqubaBackend
from taquba.integrations.django._finding import task_at
from taquba.integrations.django._handles import ask
from taquba.integrations.django._results import (
    EXPIRIES,
    UNNAMED,
    Kept,
    begun,
    call_of,
    entries,
    error_of,
    read,
    row_key,
    shown,
    value_of,
)
from taquba.integrations.django._tasks import (
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    task_finished,
    task_started,
)

_log: Final = logging.getLogger(__name__)


class TaskRunner:
    """Runs the task of a job in a worker thread. A task that raises is retried."""

    def __init__(self, backend: TaqubaBackend) -> None:
        self._backend = backend

    def __call__(self, job: JobRecord, lease: LeaseHandle) -> SettlementEffects | None:
        result = self._started(job)
        task_started.send(type(self._backend), task_result=result)
        try:
            value = self._call(result)
        except (RetryAfter, Snooze, FailWith):
            raise
        except Exception as error:
            failure = legible(error)
            self._fail(job, result, failure)
            raise
        kept = self._kept(job, result)
        self._finish(result, TaskResultStatus.SUCCESSFUL, value)
        if kept is None:
            return None
        return _effects(job, replace(kept, finished_at=_now_ms(), value=value))

    def _call(self, result: TaskResult[Any]) -> Any:
        """Call the function; returns what is kept of its return value."""
        close_old_connections()
        try:
            if result.task.takes_context:
                context = TaskContext(task_result=result)
                returned = result.task.call(context, *result.args, **result.kwargs)
            else:
                returned = result.task.call(*result.args, **result.kwargs)
            if inspect.isawaitable(returned):
                # The result of a plain decorator around an `async def`, which Django treats as
                # plain.
                returned = async_to_sync(_result_of)(returned)
        finally:
            close_old_connections()
        return value_of(result.task, returned) if self._backend.keep_ms else None

    def _fail(self, job: JobRecord, result: TaskResult[Any], error: BaseException) -> None:
        """Keep the error of an attempt; raises to end the task with it, if it was the last one."""
        last = job.attempts >= job.max_attempts or isinstance(error, PermanentFailure)
        kept = self._kept(job, result)
        if kept is not None:
            kept = replace(kept, errors=[*kept.errors, error_of(error)])
        if last:
            path, text = error_of(error)
            result.errors.append(TaskError(exception_class_path=path, traceback=text))
            self._finish(result, TaskResultStatus.FAILED)
        if kept is None:
            return
        if last:
            kept = replace(kept, failed=True, finished_at=_now_ms())
            raise FailWith(error, _effects(job, kept)) from error
        self._put(job, kept)

    def _kept(self, job: JobRecord, result: TaskResult[Any]) -> Kept | None:
        """What is kept of the task, up to this attempt; None if nothing is."""
        keep_ms = self._backend.keep_ms
        if not keep_ms:
            return None
        before: Kept | None = None
        if job.attempts > 1:
            try:
                found = ask(self._backend.url, lambda store: read(store, job.id))
                before = None if found is None else found[1]
            except TaqubaError as error:
                _log.warning("the earlier errors of task %s are not known: %s", job.id, error)
        return begun(job, before, _now_ms(), keep_ms)

    def _put(self, job: JobRecord, kept: Kept) -> None:
        """Store the error of an attempt that is not the last one."""

        async def put(store: Store) -> None:
            for key, value in entries(job.id, kept).items():
                await store.kv_put(key, value)

        try:
            ask(self._backend.url, put)
        except TaqubaError as error:
            _log.warning("an error of task %s could not be stored: %s", job.id, error)

    def _finish(self, result: TaskResult[Any], status: TaskResultStatus, value: Any = None) -> None:
        # Results are frozen for their users; a backend fills them in.
        object.__setattr__(result, "finished_at", timezone.now())
        object.__setattr__(result, "status", status)
        object.__setattr__(result, "_return_value", value)
        task_finished.send(type(self._backend), task_result=result)

    def _started(self, job: JobRecord) -> TaskResult[Any]:
        call = call_of(job)
        if call is None:
            raise PermanentFailure("not a task of Django: its payload is not that of one")
        # A worker that does not know it yet raises here, and the task is retried.
        task = task_at(call["task"])
        now = timezone.now()
        return TaskResult(
            task=task,
            id=job.id,
            status=TaskResultStatus.RUNNING,
            enqueued_at=shown(job.enqueued_at),
            started_at=now,
            finished_at=None,
            last_attempted_at=now,
            args=call["args"],
            kwargs=call["kwargs"],
            backend=self._backend.alias,
            errors=[],
            # One entry for each attempt, as Django counts them.
            worker_ids=[job.worker or UNNAMED] * job.attempts,
        )


async def sweep(store: Store) -> None:
    """Remove results that are kept no longer; any number of processes may do that at once."""

    async def forget(expiry: Expiry) -> None:
        key = row_key(expiry.what)
        row = await store.kv_get(key)
        kept = Kept.load(row)
        if row is not None and kept is not None and kept.until <= expiry.at_ms:
            await store.kv_compare_delete(key, row)
        await store.kv_delete(expiry.key)

    await Expiries(store, EXPIRIES, "taquba.integrations.django").sweep(forget)


def _effects(job: JobRecord, kept: Kept) -> SettlementEffects:
    return SettlementEffects(kv_writes=entries(job.id, kept))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _result_of(returned: object) -> object:
    return await awaited(returned)
