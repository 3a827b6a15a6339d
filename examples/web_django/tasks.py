from __future__ import annotations

from pathlib import Path

from django.conf import settings

try:
    from django.tasks import TaskContext, task
except ImportError:  # before Django 6
    from django_tasks import TaskContext, task


@task(queue_name="mail", takes_context=True)
def send_mail(context: TaskContext, to: str, text: str) -> str:
    """Put a mail into a folder; a real task talks to a mail server here."""
    folder = Path(settings.OUTBOX)
    folder.mkdir(exist_ok=True)
    # A task may run twice. This one does the same thing again then.
    file = folder / f"{context.task_result.id}.txt"
    file.write_text(f"To: {to}\n\n{text}\n")
    return file.name
