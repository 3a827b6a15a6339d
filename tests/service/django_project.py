"""Settings and tasks for the tests of the backend. Importing this sets Django up."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from taquba.integrations.django._tasks import TaskContext

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["taquba.integrations.django"],
        TASKS={
            "default": {
                "BACKEND": "taquba.integrations.django.TaqubaBackend",
                "QUEUES": ["default", "other"],
                "OPTIONS": {"url": "unused", "max_attempts": 2},
            }
        },
    )
    django.setup()

try:
    from django.tasks import task
    from django.tasks.exceptions import TaskResultMismatch as TaskResultMismatch
except ImportError:  # before Django 6
    from django_tasks import task
    from django_tasks.exceptions import TaskResultMismatch as TaskResultMismatch

calls: list[object] = []


@task
def add(first: int, second: int = 0) -> int:
    calls.append(first + second)
    return first + second


@task
def keep(value: object) -> None:
    calls.append(value)


@task(queue_name="other", priority=10)
async def add_slowly(first: int) -> None:
    calls.append(first)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them: plain, whatever it decorates."""

    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


@task
@timed
async def add_later(first: int) -> None:
    await asyncio.sleep(0)
    calls.append(first)


@task(takes_context=True)
def which(context: TaskContext) -> None:
    calls.append((context.task_result.id, context.attempt))


@task
def fail(text: str) -> None:
    calls.append(text)
    raise ValueError(text)


@task
def fail_once() -> str:
    calls.append("fail_once")
    if calls.count("fail_once") == 1:
        raise ValueError("the first time")
    return "done"


@task
def give_back(value: Any) -> Any:
    return value


@task
def give_an_object() -> object:
    return object()


@task
def large_both(value: str) -> str:
    return value[:100_000]
