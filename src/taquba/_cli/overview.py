"""`stats` and `queues`: the counters of a store and of its queues."""

from __future__ import annotations

import typer

from taquba import QueueReader, QueueStats
from taquba._cli import shapes
from taquba._cli.errors import CommandError, ExitCode
from taquba._cli.options import AsJson, QueueFilter, Store, command
from taquba._cli.output import (
    Column,
    moment_text,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from taquba._cli.stores import reading

COUNTS = ("pending", "scheduled", "claimed", "done", "dead")
QUEUE_COLUMNS = (
    Column("QUEUE", "fold"),
    *(Column(name.upper(), right=True) for name in COUNTS),
)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(
        app,
        "stats",
        "taquba stats -s ./data",
        "taquba stats -s s3://bucket/prefix -q mail --json",
    )(stats)
    command(app, "queues", "taquba queues -s ./data", "taquba queues -s ./data --json")(queues)


async def stats(store: Store, queue: QueueFilter = None, as_json: AsJson = False) -> None:
    """Show the counters, the newest change and the owner of a store."""
    async with reading(store) as reader:
        names = await reader.list_queues()
        if queue is not None:
            if queue not in names:
                raise CommandError(f"no queue {queue!r} in {store}", ExitCode.NOT_FOUND)
            names = [queue]
        total = total_of([await reader.stats(name) for name in names])
        signs = await reader.detect_owner(patience=0)
        changed_at = await reader.last_store_activity()
        beat_at = await reader.writer_heartbeat()
    if as_json:
        print_json(
            {
                "store": store,
                "queues": list(names),
                **shapes.stats(total),
                "changed_at": shapes.json_moment(changed_at),
                "owner": signs.presence.value,
                "owner_reason": signs.reason,
                "heartbeat_at": shapes.json_moment(beat_at),
            }
        )
        return
    print_fields(
        [
            ("store", store),
            ("queues" if queue is None else "queue", queue or str(len(names))),
            *((name, f"{getattr(total, name):,}") for name in COUNTS),
            ("last change", moment_text(changed_at) or "none"),
            ("owner", f"{signs.presence.value}: {signs.reason}"),
            ("heartbeat", moment_text(beat_at)),
        ]
    )


async def queues(store: Store, as_json: AsJson = False) -> None:
    """List the queues with their counters.

    DONE counts every job that was ever completed, kept or not.
    """
    async with reading(store) as reader:
        found = await queue_stats(reader)
    if as_json:
        for name, counts in found.items():
            print_json_line({"queue": name, **shapes.stats(counts)})
        return
    print_table(QUEUE_COLUMNS, [queue_row(name, counts) for name, counts in found.items()])


async def queue_stats(reader: QueueReader) -> dict[str, QueueStats]:
    """Counters of every queue, by name."""
    return {name: await reader.stats(name) for name in await reader.list_queues()}


def total_of(found: list[QueueStats]) -> QueueStats:
    return QueueStats(*(sum(getattr(counts, name) for counts in found) for name in COUNTS))


def queue_row(name: str, counts: QueueStats) -> list[str]:
    return [name, *(f"{getattr(counts, state):,}" for state in COUNTS)]
