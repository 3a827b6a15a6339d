"""Rows as a batch of the storage engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from slatedb.uniffi import WriteBatch

from taquba._engine import binding
from taquba._model.keys import Op

_FILL_COST: Final = 1024 * 1024
"""Bytes lowered into a batch between two turns of the event loop (about 1.5 ms)."""

_ROW_COST: Final = 2048
"""What lowering a row costs besides its value, in bytes that could be copied meanwhile."""


async def batch_of(ops: Sequence[Op]) -> tuple[WriteBatch, int]:
    """A batch of rows, and what it cost to make, in bytes that could be copied meanwhile."""
    batch = WriteBatch()
    cost = start = size = 0
    for position, (_, value) in enumerate(ops):
        size += _ROW_COST if value is None else _ROW_COST + len(value)
        if size >= _FILL_COST:
            binding.fill(batch, ops[start : position + 1])
            cost += size
            start, size = position + 1, 0
            await asyncio.sleep(0)
    binding.fill(batch, ops[start:])
    return batch, cost + size
