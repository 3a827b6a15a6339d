"""`inbox`: requests of producers, and batches that the owner could not take."""

from __future__ import annotations

import typer

from taquba import RejectedBatch
from taquba._cli import shapes
from taquba._cli.options import AsJson, Limit, Store, command
from taquba._cli.output import (
    Column,
    moment_text,
    one_line,
    print_fields,
    print_json,
    print_table,
    size_text,
)
from taquba._cli.stores import reading

_COLUMNS = (
    Column("REJECTED"),
    Column("SIZE", right=True),
    Column("SENT"),
    Column("REASON", "fold"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "inbox", "taquba inbox -s ./data", "taquba inbox -s ./data --json")(inbox)


async def inbox(store: Store, limit: Limit = 50, as_json: AsJson = False) -> None:
    """Show the requests that producers have put into the inbox of a store.

    Batches that the owner could not take are kept beside the inbox, each with the reason.
    """
    async with reading(store) as reader:
        stats = await reader.inbox_stats()
        rejected = await reader.rejected_batches(limit)
    if as_json:
        print_json(shapes.inbox(stats, rejected))
        return
    print_fields(
        [
            ("waiting", f"{stats.waiting:,}"),
            ("size", size_text(stats.waiting_bytes)),
            ("oldest", moment_text(stats.oldest_at)),
            ("rejected", f"{stats.rejected:,}"),
        ]
    )
    if rejected:
        print_table(_COLUMNS, map(_row, rejected))


def _row(batch: RejectedBatch) -> list[str]:
    sent_at = moment_text(batch.sent_at) or ""
    return [batch.name, size_text(batch.size), sent_at, one_line(batch.reason)]
