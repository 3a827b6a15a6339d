"""The handler that runs tasks."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import inspect
import json
import sys
import traceback
from importlib import import_module
from typing import Any

from asgiref.sync import async_to_sync
from django.apps import apps
from django.db import close_old_connections
from django.utils import timezone

from taquba import JobRecord, LeaseHandle, PermanentFailure
from taquba.extending import UNREADABLE, awaited, describe, legible
from taquba.integrations.django._backend import TaqubaBackend
from taquba.integrations.django._tasks import (
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    task_finished,
    task_started,
)


class TaskRunner:
    """Runs the task of a job in a worker thread. A task that raises is retried."""

    def __init__(self, backend: TaqubaBackend) -> None:
        self._backend = backend

    def __call__(self, job: JobRecord, lease: LeaseHandle) -> None:
        result = self._started(job)
        task_started.send(type(self._backend), task_result=result)
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
                async_to_sync(_result_of)(returned)
        except Exception as error:
            if job.attempts >= job.max_attempts:
                _finish(self._backend, result, TaskResultStatus.FAILED, legible(error))
            raise
        finally:
            close_old_connections()
        _finish(self._backend, result, TaskResultStatus.SUCCESSFUL)

    def _started(self, job: JobRecord) -> TaskResult[Any]:
        try:
            call = json.loads(job.payload)
            path, args, kwargs = call["task"], call["args"], call["kwargs"]
        except UNREADABLE as error:
            raise PermanentFailure(f"not a task of Django: {describe(error)}") from error
        # A worker that does not know it yet raises here, and the task is retried.
        task = _task_at(path)
        now = timezone.now()
        return TaskResult(
            task=task,
            id=job.id,
            status=TaskResultStatus.RUNNING,
            enqueued_at=job.enqueued_at,
            started_at=now,
            finished_at=None,
            last_attempted_at=now,
            args=args,
            kwargs=kwargs,
            backend=self._backend.alias,
            errors=[],
            # One entry for each attempt, as Django counts them.
            worker_ids=["taquba"] * job.attempts,
        )


def _task_at(path: object) -> Task[..., Any]:
    """The task that a job names.

    A job can name any module, and importing a module runs it. So only modules that this process has
    imported, and those where applications keep their tasks, are used.
    """
    if not isinstance(path, str):
        raise PermanentFailure(f"{path!r:.200} is not the path of a task")
    module_name, _, name = path.rpartition(".")
    module = sys.modules.get(module_name)
    if module is None and _holds_tasks(module_name):
        module = import_module(module_name)
    if module is None:
        raise ImportError(
            f"{path:.200} is not in the tasks module of an installed application, and nothing has "
            "imported it: move it there, or import its module when the application is ready"
        )
    task: object = vars(module).get(name)
    if task is None:
        raise ImportError(f"there is no {name:.200} in {module_name:.200}")
    if not isinstance(task, Task):
        raise PermanentFailure(f"{path:.200} is not a task")
    return task


def _holds_tasks(module_name: str) -> bool:
    return any(
        module_name == f"{app.name}.tasks" or module_name.startswith(f"{app.name}.tasks.")
        for app in apps.get_app_configs()
    )


def _finish(
    backend: TaqubaBackend,
    result: TaskResult[Any],
    status: TaskResultStatus,
    error: BaseException | None = None,
) -> None:
    # Results are frozen for their users; a backend fills them in.
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", status)
    if error is not None:
        kind = type(error)
        result.errors.append(
            TaskError(
                exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
                traceback="".join(traceback.format_exception(error)),
            )
        )
    task_finished.send(type(backend), task_result=result)


async def _result_of(returned: object) -> object:
    return await awaited(returned)
