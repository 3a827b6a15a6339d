"""Writes records to a sink, each once, however often the process dies.

An item's end is in the store before its record is written. A group of records is written in three
steps: the rows, durable in the sink; the sink's position with the ids of the group, one entry of
the store; then, in each item's own row, that it is written. If the process dies before the second
step, there are rows behind the position, which are dropped; if it dies before the third, the ids
make up for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from taquba import Store
from taquba.extending import together
from taquba_bulk._holds import HoldLost, swap
from taquba_bulk._records import BulkRecord, ItemRow, OutputRow, keys_of
from taquba_bulk._sinks import NullSink, Sink

LARGEST_GROUP = 1000
"""Records of a group: their ids must fit into one entry of the store."""


class Output:
    """The output of one run of a batch.

    Args:
        store: An open handle on the store.
        queue_name: The batch.
        sink: Where records go.
        run: The run. An earlier one, whose process comes back late, writes nothing more.
    """

    def __init__(self, store: Store, queue_name: str, sink: Sink, run: str) -> None:
        self._store = store
        self._keys = keys_of(queue_name)
        self._sink = sink
        self._is_kept = not isinstance(sink, NullSink)
        self._run = run
        self._generation = 0
        self._row: bytes | None = None

    async def open(self) -> None:
        """Continue the existing output, or begin a new one."""
        if not self._is_kept:
            return
        self._row = await self._store.kv_get(self._keys.output)
        row = None if self._row is None else OutputRow.decode(self._row)
        if row is not None and await self._sink.resume(row.position):
            self._generation = row.generation
            await self._reach(row.position, row.newest)
            await self._mark_newest(row.newest)
            return
        # The records of an earlier output must be written again. Where its row is gone or cannot be
        # read, nothing tells its generation: one that is drawn is another.
        self._generation = 1 + secrets.randbits(48) if row is None else row.generation + 1
        await self._reach(await self._sink.create(), [])

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    def holds(self, row: ItemRow) -> bool:
        """Whether an item's record is written, if there is an output."""
        return not self._is_kept or row.written == self._generation

    async def write(self, group: Sequence[tuple[BulkRecord[Any], ItemRow]]) -> None:
        """Write records of at most `LARGEST_GROUP` items, none of which is written."""
        if not self._is_kept:
            return
        position = await self._sink.write([record for record, _ in group])
        await self._reach(position, [record.run_id for record, _ in group])
        await together(self._mark(record.run_id, row) for record, row in group)

    async def _reach(self, position: bytes, newest: list[str]) -> None:
        row = OutputRow(self._generation, position, newest, self._run).encode()
        if not await swap(self._store, self._keys.output, self._row, row):
            raise HoldLost(self._keys.output)
        self._row = row

    async def _mark(self, run_id: str, row: ItemRow) -> None:
        written = row._replace(written=self._generation)
        await self._store.kv_put(self._keys.item(run_id), written.encode())

    async def _mark_newest(self, run_ids: list[str]) -> None:
        await together(self._mark_again(run_id) for run_id in run_ids)

    async def _mark_again(self, run_id: str) -> None:
        found = await self._store.kv_get(self._keys.item(run_id))
        row = None if found is None else ItemRow.decode(run_id, found)
        if row is not None:
            await self._mark(run_id, row)
