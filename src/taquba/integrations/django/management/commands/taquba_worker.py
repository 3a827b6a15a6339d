"""``manage.py taquba_worker``: run the tasks of a backend."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from taquba import TaqubaError, WorkerSpec, run_service
from taquba.integrations.django import TaqubaBackend
from taquba.integrations.django._running import TaskRunner
from taquba.integrations.django._tasks import task_backends


class Command(BaseCommand):
    """The command."""

    help = (
        "Run the tasks of a backend until SIGTERM or SIGINT. Of several such processes each runs "
        "some of them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument("--backend", default="default", help="alias of the backend in TASKS")
        parser.add_argument(
            "--concurrency", type=int, default=10, help="tasks of one queue at the same time"
        )
        parser.add_argument(
            "--drain-timeout", type=float, help="seconds that running tasks may take at the end"
        )

    def handle(
        self, *, backend: str, concurrency: int, drain_timeout: float | None, **_options: Any
    ) -> None:
        """Run it."""
        found = task_backends[backend]
        if not isinstance(found, TaqubaBackend):
            raise CommandError(f"TASKS[{backend!r}] is not a TaqubaBackend, but {found!r}")
        workers = [
            WorkerSpec(name, TaskRunner(found), concurrency=concurrency)
            for name in sorted(found.queues)
        ]
        try:
            asyncio.run(run_service(found.url, workers, drain_timeout=drain_timeout))
        except TaqubaError as error:
            raise CommandError(str(error)) from error
