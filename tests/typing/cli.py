"""What type checkers make of `taquba.cli`. Checked, never run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, assert_type

from taquba import Queue, QueueReader
from taquba.cli import (
    AsJson,
    Column,
    CommandError,
    Document,
    ExitCode,
    JobId,
    Limit,
    PayloadUrl,
    QueueFilter,
    Store,
    TakeOver,
    Yes,
    command,
    duration_option,
    group,
    json_moment,
    moment_text,
    note,
    owning,
    print_fields,
    print_json,
    print_json_line,
    print_table,
    reading,
    relative,
    say,
    size_text,
)

app = group("Look at crawls.")


@command(app, "list", "taquba crawl list")
async def list_(
    store: Store,
    queue: QueueFilter = None,
    limit: Limit = 50,
    older_than: Annotated[timedelta | None, duration_option("--older-than", "Only older.")] = None,
    as_json: AsJson = False,
) -> None:
    assert_type(store, str)
    assert_type(queue, str | None)
    assert_type(limit, int)
    assert_type(as_json, bool)
    async with reading(store, every=0.5) as reader:
        assert_type(reader, QueueReader)
    document: Document = {"at": json_moment(datetime.now(UTC)), "queues": ["a"]}
    print_json(document)
    print_json_line({"of": object()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


@command(app, "drop", "taquba crawl drop X")
async def drop(
    job_id: JobId,
    store: Store,
    yes: Yes = False,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
) -> None:
    async with owning(store, take_over=take_over, payload_url=payload_url) as owner:
        assert_type(owner, Queue)
    if not yes:
        raise CommandError(f"{job_id} is still needed", ExitCode.REFUSED)
    now = datetime.now(UTC)
    print_table([Column("WHEN"), Column("SIZE", right=True)], [[relative(now), size_text(1)]])
    print_fields([("when", moment_text(now)), ("never", None)])
    say("gone")
    note("for good")


@command(app, "wrong", "taquba crawl wrong")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def wrong(store: Store) -> None: ...
