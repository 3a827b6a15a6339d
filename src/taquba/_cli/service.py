"""`run`: take part in a service that a module has made."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from taquba import Service, run_service
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.loading import load_object
from taquba._cli.options import command
from taquba._cli.output import log_to_terminal, note
from taquba._service.child import Orders
from taquba._service.processes import Processes, Program
from taquba._service.running import with_parts
from taquba._worker.workers import stopping


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "run",
        "taquba run app.jobs:service",
        "taquba run app.jobs:service --processes 4",
    )(run)


async def run(
    service: Annotated[
        str, typer.Argument(metavar="MODULE:SERVICE", help="A Service that is not running yet.")
    ],
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Run it in this many child processes."),
    ] = None,
) -> None:
    """Take part in a service that a module has made, until Ctrl-C or SIGTERM.

    The runners of jobs, the runtimes of workflows and the schedulers that were made for the service
    run as well.
    Then running handlers finish, and an owner hands over; a second Ctrl-C cancels the handlers, and
    their jobs return to their queues. With --processes, child processes take part, each of which
    imports the module, and they are replaced when they die. The module is looked for in the current
    folder first.
    """
    found = _load(service)
    log_to_terminal()
    note(f"running {service}; Ctrl-C ends")
    if processes is None:
        await run_service(found, *_parts(found))
        return
    program = Program.pack(service, partial(_run_loaded, service), processes)
    children = Processes([program], None)
    async with (
        stopping(None, children.interrupt, handle_signals=True) as stop,
        children.running(stop),
    ):
        await stop.wait()


def _load(where: str) -> Service:
    found = load_object(where, "service", "app.jobs:service")
    if not isinstance(found, Service):
        raise CommandError(f"{where} is not a Service, but {found!r}", ExitCode.USAGE)
    return found


async def _run_loaded(where: str, orders: Orders) -> None:
    """Run a service in a child process, which has one of its own."""
    service = _load(where)
    with_parts(service, _parts(service))
    await service._run_as_told(orders)  # pyright: ignore[reportPrivateUsage] - its own


def _parts(service: Service) -> list[Any]:
    """What the module has made for its service."""
    return service._made_parts()  # pyright: ignore[reportPrivateUsage] - for this command
