"""``manage.py taquba_worker``: run the tasks of a backend."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from taquba import TaqubaError
from taquba.integrations.django import TaqubaBackend
from taquba.integrations.django._tasks import task_backends
from taquba.integrations.django._working import work, work_in_processes


class Command(BaseCommand):
    """The command."""

    help = (
        "Run the tasks of a backend until SIGTERM or SIGINT. Of several such processes each runs "
        "some of them, and one of them owns the store."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument("--backend", default="default", help="alias of the backend in TASKS")
        parser.add_argument(
            "--processes", type=int, help="run tasks in this many child processes of this one"
        )
        parser.add_argument(
            "--concurrency",
            type=int,
            default=10,
            help="tasks of one queue at the same time, in each process",
        )
        parser.add_argument(
            "--drain-timeout", type=float, help="seconds that running tasks may take at the end"
        )

    def handle(
        self,
        *,
        backend: str,
        processes: int | None,
        concurrency: int,
        drain_timeout: float | None,
        **_options: Any,
    ) -> None:
        """Run it."""
        found = task_backends[backend]
        if not isinstance(found, TaqubaBackend):
            raise CommandError(f"TASKS[{backend!r}] is not a TaqubaBackend, but {found!r}")
        if processes is not None and processes < 1:
            raise CommandError(f"--processes must be at least 1, not {processes}")
        working = (
            work(found, concurrency, drain_timeout, self._say)
            if processes is None
            else work_in_processes(found, concurrency, drain_timeout, processes)
        )
        try:
            asyncio.run(working)
        except TaqubaError as error:
            raise CommandError(str(error)) from error

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
