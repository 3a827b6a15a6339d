"""A task of Django's that never ends."""

from __future__ import annotations

from tests.worker import stuck_child

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task


@task(queue_name="q")
def stay() -> None:
    stuck_child.tell_and_stay()
