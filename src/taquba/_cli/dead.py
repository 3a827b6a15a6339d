"""`dead list`, `dead requeue`, `dead purge`: what to do with jobs that failed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from taquba import InvalidState, JobNotFound, JobRecord, JobStatus, Queue, ReadableStore
from taquba._cli import shapes
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.jobs import print_jobs, walk
from taquba._cli.options import (
    AsJson,
    Limit,
    NewerThan,
    OlderThan,
    PayloadUrl,
    QueueFilter,
    Store,
    TakeOver,
    Yes,
    command,
    group,
)
from taquba._cli.output import (
    Column,
    note,
    print_json,
    print_table,
    relative,
    say,
)
from taquba._cli.stores import owning, reading
from taquba._model.errors import UnreadableJob
from taquba._model.records import Job

app: Final = group("Inspect dead letters, give them fresh attempts, or remove them.")

JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="Only these jobs.")]
ErrorText = Annotated[
    str | None,
    typer.Option("--error", metavar="TEXT", help="Only those whose error contains this text."),
]
All = Annotated[bool, typer.Option("--all", help="Every dead letter of the store.")]

_EVERY: Final = 2**63
_AT_ONCE: Final = 200
"""Jobs acted on at the same time, so that they share commits."""

_SHOWN: Final = 20
"""Jobs that a dry run names; it counts them all."""

_COLUMNS: Final = (
    Column("ID", "fold"),
    Column("QUEUE", "cut"),
    Column("FAILED"),
    Column("TRIES", right=True),
    Column("ERROR", "cut"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters a command is about."""

    ids: tuple[str, ...] = ()
    queue: str | None = None
    error: str | None = None
    failed_before: datetime | None = None
    failed_after: datetime | None = None

    @classmethod
    def of(
        cls,
        ids: list[str] | None,
        queue: str | None,
        error: str | None,
        older_than: timedelta | None,
        newer_than: timedelta | None,
    ) -> Selection:
        now = datetime.now(UTC)
        return cls(
            ids=tuple(ids or ()),
            queue=queue,
            error=error,
            failed_before=None if older_than is None else now - older_than,
            failed_after=None if newer_than is None else now - newer_than,
        )

    def takes(self, job: JobRecord) -> bool:
        """Whether a dead letter is selected."""
        if self.queue is not None and job.queue != self.queue:
            return False
        if self.error is not None and self.error.lower() not in (job.last_error or "").lower():
            return False
        failed_at = job.failed_at
        if failed_at is None:
            return False
        if self.failed_before is not None and failed_at > self.failed_before:
            return False
        return self.failed_after is None or failed_at >= self.failed_after

    async def find(self, looked_at: ReadableStore) -> AsyncGenerator[JobRecord]:
        """The selected dead letters.

        Raises:
            JobNotFound: A named job does not exist.
            InvalidState: A named job is not dead.
        """
        if self.ids:
            for job_id in self.ids:
                try:
                    job = await looked_at.get_job(job_id)
                except UnreadableJob as error:
                    # Moving it will show whether it is a dead letter.
                    note(str(error))
                    nothing_known = Job(job_id, error.queue, b"", None, 0, 0, 1, finished_at=0)
                    yield JobRecord(nothing_known, JobStatus.DEAD)
                    continue
                if job is None:
                    raise JobNotFound(job_id)
                if job.status is not JobStatus.DEAD:
                    raise InvalidState(job_id, job.status.value, JobStatus.DEAD.value)
                if self.takes(job):
                    yield job
            return
        async with aclosing(walk(looked_at, self.queue, [JobStatus.DEAD], _EVERY)) as walked:
            async for job in walked:
                if self.takes(job):
                    yield job


@command(
    app,
    "list",
    "taquba dead list -s ./data",
    "taquba dead list -s ./data -q mail --error timeout --newer-than 1h",
    "taquba dead list -s ./data --json | jq -r .last_error | sort | uniq -c",
)
async def list_(
    store: Store,
    queue: QueueFilter = None,
    error: ErrorText = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first in each queue."""
    selection = Selection.of(None, queue, error, older_than, newer_than)
    async with reading(store) as reader, aclosing(selection.find(reader)) as selected:
        await print_jobs(selected, limit, _COLUMNS, _row, shapes.job if as_json else None)


def _row(job: JobRecord) -> list[str]:
    return [
        job.id,
        job.queue,
        relative(job.failed_at),
        f"{job.attempts}/{job.max_attempts}",
        job.last_error or "",
    ]


@command(
    app,
    "requeue",
    "taquba dead requeue -s ./data -q mail --newer-than 1h    # only shows",
    "taquba dead requeue -s ./data -q mail --newer-than 1h --yes",
    "taquba dead requeue -s ./data 01JD0000000000000000000000 --yes",
)
async def requeue(
    store: Store,
    job_ids: JobIds = None,
    queue: QueueFilter = None,
    error: ErrorText = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    every: All = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters fresh attempts.

    They keep their ids. Without --yes, the command only shows what it would do.
    """
    selection = Selection.of(job_ids, queue, error, older_than, newer_than)
    move = _Move("requeued", Queue.requeue_dead, selection, as_json)
    await move.run(store, owning(store, take_over=take_over), every=every, yes=yes)


@command(
    app,
    "purge",
    "taquba dead purge -s ./data --older-than 30d             # only shows",
    "taquba dead purge -s ./data --older-than 30d --yes",
    'taquba dead purge -s ./data -q mail --error "no such address" --yes',
)
async def purge(
    store: Store,
    job_ids: JobIds = None,
    queue: QueueFilter = None,
    error: ErrorText = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    every: All = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters for good.

    Without --yes, the command only shows what it would do.
    """
    selection = Selection.of(job_ids, queue, error, older_than, newer_than)
    move = _Move("purged", Queue.purge_dead, selection, as_json)
    owned = owning(store, take_over=take_over, payload_url=payload_url)
    await move.run(store, owned, every=every, yes=yes)


@dataclass(frozen=True, slots=True)
class _Move:
    """Dead letters to requeue or to purge.

    Attributes:
        done: What has happened to them afterwards, as a participle.
        one: Moves one of them.
        selection: Selects them.
        as_json: Whether to report as JSON.
    """

    done: str
    one: Callable[[Queue, str], Awaitable[None]]
    selection: Selection
    as_json: bool

    async def run(
        self,
        store: str,
        owned: AbstractAsyncContextManager[Queue],
        *,
        every: bool,
        yes: bool,
    ) -> None:
        """Move them, or without `yes` list them."""
        if every == (self.selection != Selection()):
            raise CommandError(
                "select dead letters by ids, --queue, --error, --older-than or --newer-than; "
                "or give --all alone",
                ExitCode.USAGE,
            )
        if yes:
            async with owned as owner:
                await self._act(owner)
        else:
            async with reading(store) as reader:
                await self._rehearse(reader)

    async def _rehearse(self, reader: ReadableStore) -> None:
        found: list[JobRecord] = []
        count = 0
        ids: list[shapes.Json] = []
        async for job in self.selection.find(reader):
            count += 1
            if self.as_json:
                ids.append(job.id)
            elif len(found) < _SHOWN:
                found.append(job)
        if self.as_json:
            print_json({"dry_run": True, self.done: 0, "would_be": count, "job_ids": ids})
            return
        if found:
            print_table(_COLUMNS, [_row(job) for job in found])
        if count > len(found):
            say(f"... and {count - len(found):,} more")
        say(f"{_count(count)} would be {self.done}; nothing was changed.")
        if count:
            note("add --yes to do it")

    async def _act(self, owner: Queue) -> None:
        moved = gone = 0
        batch: list[str] = []

        async def move_batch() -> None:
            nonlocal moved, gone
            outcomes = await asyncio.gather(*(self._moved(owner, job_id) for job_id in batch))
            moved += sum(outcomes)
            gone += len(outcomes) - sum(outcomes)
            batch.clear()

        async for job in self.selection.find(owner):
            batch.append(job.id)
            if len(batch) == _AT_ONCE:
                await move_batch()
        await move_batch()
        if self.as_json:
            print_json({"dry_run": False, self.done: moved, "gone": gone})
            return
        say(f"{_count(moved)} {self.done}")
        if gone:
            note(f"{_count(gone)} disappeared meanwhile")

    async def _moved(self, owner: Queue, job_id: str) -> bool:
        """Move one; False if it disappeared meanwhile."""
        try:
            await self.one(owner, job_id)
        except (JobNotFound, InvalidState):
            return False
        return True


def _count(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"
