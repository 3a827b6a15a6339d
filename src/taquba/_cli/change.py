"""`enqueue`, `cancel`, `wake`: changing one job."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final

import typer

from taquba import CancelOutcome, InvalidState, JobNotFound, WakeOutcome
from taquba._cli import parsing
from taquba._cli.content import File, content
from taquba._cli.options import (
    AsJson,
    Create,
    JobId,
    PayloadUrl,
    Store,
    TakeOver,
    command,
    duration_option,
)
from taquba._cli.output import note, print_json, say
from taquba._cli.stores import owning

_CANCELLED: Final = {
    CancelOutcome.removed: "the job is removed",
    CancelOutcome.requested: "the job is running; it was asked to stop",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(
        app,
        "enqueue",
        'taquba enqueue -s ./data mail \'{"to": "a@example.org"}\'',
        "taquba enqueue -s ./data reports --file report.json --delay 1h30m",
        "generate | taquba enqueue -s ./data imports - --dedup-key today",
    )(enqueue)
    command(app, "cancel", "taquba cancel -s ./data 01JD0000000000000000000000")(cancel)
    command(
        app,
        "wake",
        "taquba wake -s ./data approval-7",
        "taquba wake -s ./data approval-7 --payload approved",
    )(wake)


async def enqueue(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")],
    store: Store,
    payload: Annotated[
        str | None,
        typer.Argument(metavar="PAYLOAD", help="The payload as text, or - for standard input."),
    ] = None,
    file: File = None,
    delay: Annotated[
        timedelta | None, duration_option("--delay", "Start it this much later.")
    ] = None,
    run_at: Annotated[
        datetime | None,
        typer.Option(
            "--run-at", parser=parsing.moment, metavar="TIME", help="Start it then (ISO 8601)."
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            parser=parsing.priority,
            metavar="PRIORITY",
            help="high, normal, low or a number; lower is claimed first.",
        ),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            "--max-attempts",
            metavar="N",
            help="Attempts before it is dead; 3 if not said.",
        ),
    ] = None,
    dedup_key: Annotated[
        str | None,
        typer.Option(
            "--dedup-key", metavar="KEY", help="Add nothing while a waiting job holds this key."
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", metavar="NAME=VALUE", help="A header; may be given several times."
        ),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", metavar="JOB_ID", help="The id; made up if not said.")
    ] = None,
    create: Create = False,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Add a job; prints its id once it is durable."""
    body = content("payload", payload, file)
    headers = dict(parsing.header(text) for text in header or ())
    async with owning(store, take_over=take_over, create=create, payload_url=payload_url) as owner:
        result = await owner.enqueue(
            queue,
            body,
            delay=delay,
            run_at=run_at,
            priority=priority,
            max_attempts=max_attempts,
            dedup_key=dedup_key,
            headers=headers,
            job_id=job_id,
        )
    if as_json:
        print_json({"id": result.id, "new": result.new, "queue": queue})
        return
    say(result.id)
    if not result.new:
        note(f"nothing was added: that job holds the dedup key {dedup_key!r}")


async def cancel(
    job_id: JobId,
    store: Store,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove a job that is pending or scheduled."""
    async with owning(store, take_over=take_over, payload_url=payload_url) as owner:
        outcome = await owner.cancel(job_id)
        found = await owner.get_job(job_id) if outcome is CancelOutcome.not_found else None
    if outcome is CancelOutcome.not_found:
        if found is None:
            raise JobNotFound(job_id)
        raise InvalidState(job_id, found.status.value, "pending or scheduled")
    if as_json:
        print_json({"id": job_id, "outcome": outcome.value})
    else:
        say(_CANCELLED[outcome])


async def wake(
    job_id: JobId,
    store: Store,
    payload: Annotated[
        str | None,
        typer.Option("--payload", metavar="TEXT", help="What to pass on to its handler."),
    ] = None,
    take_over: TakeOver = False,
    as_json: AsJson = False,
) -> None:
    """Start a scheduled job now."""
    async with owning(store, take_over=take_over) as owner:
        outcome = await owner.wake_scheduled(job_id, None if payload is None else payload.encode())
        found = await owner.get_job(job_id)
    if outcome is WakeOutcome.not_found or found is None:
        raise JobNotFound(job_id)
    if outcome is WakeOutcome.not_scheduled:
        raise InvalidState(job_id, found.status.value, "scheduled")
    if as_json:
        print_json({"id": job_id, "outcome": outcome.value})
    else:
        say("the job is pending")
