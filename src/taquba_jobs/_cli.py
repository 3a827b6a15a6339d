"""The command `taquba progress`, which taquba's command line imports when it is requested."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from taquba import JobNotFound, QueueReader, StoreError
from taquba.cli import (
    AsJson,
    Column,
    Document,
    Store,
    command,
    json_moment,
    moment_text,
    note,
    print_fields,
    print_json,
    print_json_line,
    print_table,
    reading,
    relative,
)
from taquba_jobs._outcomes import JobProgress, all_progress, fetch_progress, fetch_status

app: Final = typer.Typer(rich_markup_mode=None, add_completion=False)

_COLUMNS: Final = (
    Column("ID", "fold"),
    Column("DONE", right=True),
    Column("TOTAL", right=True),
    Column("%", right=True),
    Column("REPORTED"),
    Column("NOTE", "cut"),
)


@command(
    app,
    "progress",
    "taquba progress -s ./data",
    "taquba progress -s ./data 01JD0000000000000000000000 --json",
)
async def progress(
    store: Store,
    job_id: Annotated[
        str | None, typer.Argument(metavar="JOB_ID", help="Only this job, running or not.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the progress of running typed jobs, as they reported it with `ctx.progress`."""
    async with reading(store) as reader:
        if job_id is None:
            await _print_all(reader, as_json)
        else:
            await _print_one(reader, job_id, as_json)


async def _print_all(reader: QueueReader, as_json: bool) -> None:
    rows: list[list[str]] = []
    async for job_id, report in all_progress(reader):
        if isinstance(report, StoreError):
            note(f"{job_id}: {report}")
        elif as_json:
            print_json_line({"id": job_id, **_document(report)})
        else:
            rows.append(_row(job_id, report))
    if not as_json:
        print_table(_COLUMNS, rows)


async def _print_one(reader: QueueReader, job_id: str, as_json: bool) -> None:
    state = await fetch_status(reader, job_id)
    if state is None:
        raise JobNotFound(job_id)
    report = await fetch_progress(reader, job_id)
    if as_json:
        print_json({"id": job_id, "state": state.value, **_document(report)})
        return
    fields: list[tuple[str, str | None]] = [("id", job_id), ("state", state.value)]
    if report is not None:
        fields += [
            ("done", _done(report)),
            ("note", report.note),
            ("reported", moment_text(report.reported_at)),
        ]
    print_fields(fields)


def _done(report: JobProgress) -> str:
    if report.total is None:
        return _number(report.done)
    share = _percent(report)
    return f"{_number(report.done)} of {_number(report.total)}" + (f" ({share}%)" if share else "")


def _row(job_id: str, report: JobProgress) -> list[str]:
    return [
        job_id,
        _number(report.done),
        _number(report.total),
        _percent(report),
        relative(report.reported_at),
        report.note or "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.12g}"


def _percent(report: JobProgress) -> str:
    return f"{100 * report.done / report.total:.0f}" if report.total else ""


def _document(report: JobProgress | None) -> Document:
    return {
        "done": None if report is None else report.done,
        "total": None if report is None else report.total,
        "note": None if report is None else report.note,
        "reported_at": None if report is None else json_moment(report.reported_at),
    }
