"""The backend: what Django calls to enqueue a task."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from taquba._model.options import PRIORITY_NORMAL
from taquba.integrations.django._producers import producer_of
from taquba.integrations.django._tasks import (
    BaseTaskBackend,
    Task,
    TaskResult,
    TaskResultStatus,
    task_enqueued,
)

T = TypeVar("T")

_OPTIONS: Final = {"url", "max_attempts"}


class TaqubaBackend(BaseTaskBackend):
    """Enqueues tasks as jobs; durable when `enqueue` returns.

    Options: ``url`` of the store; ``max_attempts``, after which a task that raises is a dead
    letter (default: 3). Results are not kept: a task writes what it has to say to the database.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        unknown = set(self.options) - _OPTIONS
        if unknown or not self.options.get("url"):
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['OPTIONS'] needs 'url', the store's, and may have "
                f"'max_attempts'; got {self.options!r}"
            )
        if not self.queues:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['QUEUES'] must name the queues that workers shall work on"
            )

    @property
    def url(self) -> str:
        """Where the store is."""
        return str(self.options["url"])

    def enqueue(self, task: Task[..., T], args: Any, kwargs: Mapping[str, Any]) -> TaskResult[T]:
        """Enqueue a task.

        Raises:
            TaqubaError: It could not be stored; see `taquba.producer.SyncProducer`.
        """
        self.validate_task(task)
        call = {"task": task.module_path, "args": args, "kwargs": kwargs}
        receipt = producer_of(self.url).enqueue(
            task.queue_name,
            json.dumps(call).encode(),
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


def _aware(moment: datetime | None) -> datetime | None:
    """With USE_TZ off, Django's times are local ones without a zone."""
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment)
