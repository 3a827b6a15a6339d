"""The backend: Django calls it to enqueue a task."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from taquba._model.errors import InvalidArgument, InvalidArgumentType, InvalidJobId
from taquba._model.options import PRIORITY_NORMAL
from taquba._model.same import difference
from taquba._model.validate import duration_ms
from taquba._worker.outcomes import PermanentFailure
from taquba.integrations.django._handles import look, producer_of
from taquba.integrations.django._results import read, result_of
from taquba.integrations.django._tasks import (
    BaseTaskBackend,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)

T = TypeVar("T")

_REMEDY: Final = "pass JSON values: None, bool, int, float, str, list, and dict with str keys"
_OPTIONS: Final = {"url", "max_attempts", "keep_results"}
_DAY: Final = 24 * 3600


class TaqubaBackend(BaseTaskBackend):
    """Enqueues tasks as jobs; durable when `enqueue` returns.

    Options: ``url`` of the store; ``max_attempts``, after which a task that raises is a dead letter
    (default: 3); ``keep_results``, the seconds for which the result of a task is kept once it has
    ended (default: a day; 0 keeps none).
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True
    supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        unknown = set(self.options) - _OPTIONS
        if unknown or not self.options.get("url"):
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['OPTIONS'] needs 'url', the store's, and may have "
                f"'max_attempts' and 'keep_results'; got {self.options!r}"
            )
        if not self.queues:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['QUEUES'] must name the queues that workers serve"
            )
        try:
            self.keep_ms = duration_ms(self.options.get("keep_results", _DAY), "keep_results")
        except (InvalidArgument, InvalidArgumentType) as error:
            raise ImproperlyConfigured(f"TASKS[{alias!r}]['OPTIONS']: {error}") from error
        self.supports_get_result = self.keep_ms > 0

    @property
    def url(self) -> str:
        """The URL of the store."""
        return str(self.options["url"])

    def enqueue(self, task: Task[..., T], args: Any, kwargs: Mapping[str, Any]) -> TaskResult[T]:
        """Enqueue a task.

        Raises:
            InvalidArgument: JSON would change an argument; nothing was written.
            InvalidArgumentType: JSON cannot hold an argument; nothing was written.
            TaqubaError: It could not be stored; see `taquba.producer.SyncProducer`.
        """
        self.validate_task(task)
        payload = _packed(task, args, kwargs)
        receipt = producer_of(self.url).enqueue(
            task.queue_name,
            payload,
            run_at=_aware(task.run_after),
            # Here the lower number comes first.
            priority=PRIORITY_NORMAL - task.priority,
            max_attempts=self.options.get("max_attempts"),
        )
        result: TaskResult[T] = TaskResult(
            task=task,
            id=receipt.id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[Any]:
        """Return the result of a task, from any process.

        Raises:
            TaskResultDoesNotExist: There is no such task, or its result is kept no longer.
            ImportError: This process does not know the task.
            OwnerUnreachable: No worker runs on this machine, and the store does not know the task;
                it may have been enqueued, and not been taken by a worker.
            TaqubaError: The store cannot be read.
        """
        if not self.supports_get_result:
            return super().get_result(result_id)
        result: TaskResult[Any] | None = None
        with suppress(InvalidJobId, InvalidArgumentType, PermanentFailure):
            found = look(self.url, lambda store: read(store, result_id))
            result = None if found is None else result_of(self.alias, result_id, *found)
        if result is None:
            raise TaskResultDoesNotExist(result_id)
        return result


def _packed(task: Task[..., Any], args: Any, kwargs: Mapping[str, Any]) -> bytes:
    """A call as JSON; refuses one that would be read as a different call."""
    names = list(inspect.signature(task.func).parameters)[1 if task.takes_context else 0 :]
    named = [*zip([*names, *["args"] * len(args)], args, strict=False), *kwargs.items()]
    for name, value in named:
        try:
            found = difference(value, json.loads(json.dumps(value)))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgumentType(
                f"the argument {name!r} of task {task.name!r}, a {type(value).__name__}, cannot be "
                f"stored: {error}; {_REMEDY}"
            ) from None
        if found is not None:
            raise InvalidArgument(
                f"the argument {name!r} of task {task.name!r} cannot be stored: "
                f"{name}{found.path}: {found}; {_REMEDY}"
            )
    call = {"task": task.module_path, "args": list(args), "kwargs": dict(kwargs)}
    return json.dumps(call).encode()


def _aware(moment: datetime | None) -> datetime | None:
    """With USE_TZ off, Django's times are local ones without a zone."""
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment)
