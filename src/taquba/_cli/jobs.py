"""`jobs list`, `jobs show`, `jobs history`: inspecting jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Final

import typer

from taquba import JobNotFound, JobRecord, JobStatus, PayloadMissing, ReadableStore
from taquba._cli import shapes
from taquba._cli.options import (
    AsJson,
    JobId,
    Limit,
    PayloadUrl,
    QueueFilter,
    Store,
    command,
    group,
)
from taquba._cli.output import (
    Column,
    bytes_text,
    complain,
    moment_text,
    note,
    print_fields,
    print_json,
    print_json_line,
    print_table,
    relative,
    size_text,
)
from taquba._cli.stores import reading

app: Final = group("Inspect jobs.")

_PAGE: Final = 500
_COLUMNS: Final = (
    Column("ID", "fold"),
    Column("QUEUE", "cut"),
    Column("STATUS"),
    Column("TRIES", right=True),
    Column("WHEN"),
    Column("ERROR", "cut"),
)


async def walk(
    looked_at: ReadableStore,
    queue: str | None,
    statuses: list[JobStatus],
    most: int,
    *,
    payloads: bool = False,
) -> AsyncGenerator[JobRecord]:
    """Up to `limit` jobs of one queue or all, in these states; a page at a time."""
    for name in await looked_at.list_queues() if queue is None else [queue]:
        for status in statuses:
            cursor = None
            while True:
                page = await looked_at.list_jobs(
                    name, status, cursor, min(most, _PAGE), payloads=payloads
                )
                for record in page.unreadable:
                    note(record.reason)
                for job in page.jobs:
                    yield job
                    most -= 1
                    if most == 0:
                        return
                cursor = page.next_cursor
                if cursor is None:
                    break


@command(
    app,
    "list",
    "taquba jobs list -s ./data",
    "taquba jobs list -s ./data -q mail --status scheduled --limit 200",
    "taquba jobs list -s ./data --status dead --json | jq .last_error",
)
async def list_(
    store: Store,
    queue: QueueFilter = None,
    status: Annotated[
        list[JobStatus] | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Only pending, scheduled, claimed, done or dead jobs; may be repeated.",
        ),
    ] = None,
    limit: Limit = 50,
    payload: Annotated[
        bool, typer.Option("--payload", help="With --json: include the payloads.")
    ] = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs.

    Pending jobs are in claim order, scheduled jobs in the order of their due times, done and dead
    jobs in the order in which they ended.
    """
    states = status or list(JobStatus)
    async with (
        reading(store, payload_url=payload_url) as reader,
        aclosing(walk(reader, queue, states, limit + 1, payloads=payload)) as walked,
    ):
        shape = _with_payload if payload else shapes.job
        await print_jobs(walked, limit, _COLUMNS, _row, shape if as_json else None)


async def print_jobs(
    jobs: AsyncGenerator[JobRecord],
    limit: int,
    columns: Sequence[Column],
    row: Callable[[JobRecord], list[str]],
    shape: Callable[[JobRecord], shapes.Document] | None,
) -> None:
    """Print up to `limit` jobs: each at once as JSON, or without a `shape` as a table."""
    rows: list[list[str]] = []
    shown = 0
    more = False
    async for job in jobs:
        if shown == limit:
            more = True
            break
        shown += 1
        if shape is None:
            rows.append(row(job))
        else:
            print_json_line(shape(job))
    if shape is None:
        print_table(columns, rows)
    if more:
        note(f"only the first {limit} are shown; --limit shows more")


def _with_payload(job: JobRecord) -> shapes.Document:
    return shapes.job_with_payload(job, _payload(job))


def _row(job: JobRecord) -> list[str]:
    return [
        job.id,
        job.queue,
        job.status.value,
        f"{job.attempts}/{job.max_attempts}",
        relative(_when(job)),
        job.last_error or "",
    ]


def _when(job: JobRecord) -> datetime | None:
    """The most relevant time of a job in its state."""
    match job.status:
        case JobStatus.PENDING:
            return job.enqueued_at
        case JobStatus.SCHEDULED:
            return job.run_at
        case JobStatus.CLAIMED:
            return job.claimed_at
        case JobStatus.DONE:
            return job.completed_at
        case JobStatus.DEAD:
            return job.failed_at


@command(
    app,
    "show",
    "taquba jobs show -s ./data 01JD0000000000000000000000",
    "taquba jobs show -s ./data order-7 --json | jq -r .payload",
)
async def show(
    job_id: JobId, store: Store, payload_url: PayloadUrl = None, as_json: AsJson = False
) -> None:
    """Show all details of one job, with its payload."""
    async with reading(store, payload_url=payload_url) as reader:
        job = await reader.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id)
    if as_json:
        print_json(_with_payload(job))
        return
    payload = _payload(job)
    print_fields(
        [
            ("id", job.id),
            ("queue", job.queue),
            ("status", job.status.value),
            ("attempts", f"{job.attempts} of {job.max_attempts}"),
            ("priority", str(job.priority)),
            ("enqueued", moment_text(job.enqueued_at)),
            ("run at", moment_text(job.run_at)),
            ("claimed", moment_text(job.claimed_at)),
            ("worker", job.worker),
            ("completed", moment_text(job.completed_at)),
            ("failed", moment_text(job.failed_at)),
            ("last error", job.last_error),
            ("cancel requested", "yes" if job.cancel_requested else None),
            ("runs alone", "yes" if job.suspect else None),
            ("dedup key", job.dedup_key),
            ("woken", moment_text(job.woken_at)),
            ("wake payload", None if job.wake_payload is None else bytes_text(job.wake_payload)),
            *((f"header {name}", value) for name, value in job.headers.items()),
            ("payload object", job.payload_ref),
            (
                "payload",
                None if payload is None else f"{size_text(len(payload))}\n{bytes_text(payload)}",
            ),
        ]
    )


def _payload(job: JobRecord) -> bytes | None:
    """The job's payload; if its object is missing, say so and still show the rest."""
    try:
        return job.payload
    except PayloadMissing as missing:
        complain(str(missing))
        return None


@command(app, "history", "taquba jobs history -s ./data 01JD0000000000000000000000")
async def history(job_id: JobId, store: Store, as_json: AsJson = False) -> None:
    """List the ended attempts of a job, oldest first."""
    async with reading(store) as reader:
        attempts = await reader.attempt_history(job_id)
        if not attempts and await reader.get_job(job_id) is None:
            raise JobNotFound(job_id)
    if as_json:
        for attempt in attempts:
            print_json_line(shapes.attempt(attempt))
        return
    columns = (
        Column("ATTEMPT", right=True),
        Column("STARTED"),
        Column("TOOK", right=True),
        Column("OUTCOME"),
        Column("COUNTED"),
        Column("WORKER", "cut"),
        Column("ERROR", "fold"),
    )
    rows: list[list[str]] = [
        [
            str(attempt.attempt),
            relative(attempt.claimed_at),
            ""
            if attempt.claimed_at is None
            else f"{(attempt.recorded_at - attempt.claimed_at).total_seconds():.3f} s",
            attempt.outcome.value,
            "yes" if attempt.counted else "no",
            attempt.worker or "",
            attempt.error or "",
        ]
        for attempt in attempts
    ]
    print_table(columns, rows)
