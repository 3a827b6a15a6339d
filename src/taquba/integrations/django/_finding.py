"""Tasks by their paths."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from django.apps import apps

from taquba._worker.outcomes import PermanentFailure
from taquba.integrations.django._tasks import Task


def task_at(path: object) -> Task[..., Any]:
    """The task that a job names.

    A job can name any module, and importing a module runs it. So only modules that this process has
    imported, and those where applications keep their tasks, are used.

    Raises:
        ImportError: This process does not know it; another release may.
        PermanentFailure: It is not a task.
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
