"""`members`: the processes that take part in a service, and what each of them runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from taquba import Member, OwnerUnreachable, Service
from taquba._cli import shapes
from taquba._cli.errors import CommandError
from taquba._cli.options import AsJson, command
from taquba._cli.output import Column, print_json_line, print_table, relative

_WAITS_SECONDS: Final = 5
"""For an owner, where one is being elected."""

_COLUMNS: Final = (
    Column("HOST", "cut"),
    Column("PID", right=True),
    Column("ROLE"),
    Column("SINCE"),
    Column("VERSION"),
    Column("PLACES", "fold"),
    Column("RUNNING", right=True),
)
_JOB_COLUMNS: Final = (
    Column("JOB", "fold"),
    Column("QUEUE", "fold"),
    Column("STARTED"),
    Column("HOST", "cut"),
    Column("PID", right=True),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "members",
        "taquba members ./data",
        "taquba members ./data --jobs",
        "taquba members s3://bucket/prefix --json",
    )(members)


async def members(
    url: Annotated[
        str,
        typer.Argument(envvar="TAQUBA_STORE", metavar="URL", help="The store of the service."),
    ],
    jobs: Annotated[
        bool, typer.Option("--jobs", help="List the running jobs instead of the processes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the processes of a service that runs, and how many jobs each of them runs.

    It asks the owner, which must be on this machine. Nothing is written to the store.
    """
    found = await _ask(url)
    if as_json:
        for member in found:
            print_json_line(shapes.member(member))
    elif jobs:
        print_table(_JOB_COLUMNS, [row for member in found for row in _job_rows(member)])
    else:
        print_table(_COLUMNS, map(_row, found))


async def _ask(url: str) -> list[Member]:
    """The processes that take part, without this one."""
    async with Service(url, role="producer", call_timeout=_WAITS_SECONDS) as service:
        try:
            found = await service.members()
        except OwnerUnreachable as error:
            raise CommandError(
                f"no process of this machine owns {error.url} and answers: members can be listed "
                "where a Service runs, or a Queue that was opened with producer_socket=True"
            ) from error
    here = (socket.gethostname(), os.getpid())
    return [member for member in found if (member.host, member.pid) != here]


def _row(member: Member) -> Sequence[str]:
    return (
        member.host,
        str(member.pid),
        member.role,
        relative(member.since),
        member.version,
        ", ".join(f"{queue} {places}" for queue, places in sorted(member.places.items())),
        str(len(member.running)),
    )


def _job_rows(member: Member) -> list[Sequence[str]]:
    return [
        (job.job_id, job.queue, relative(job.since), member.host, str(member.pid))
        for job in member.running
    ]
