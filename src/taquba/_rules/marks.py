"""Marks of batches and jobs that were taken from the inbox before, as pure functions.

A mark is written in the commit that takes a batch, and outlives the batch's object and its jobs.
Beside each mark there is a row by which it is found when it is old.
"""

from __future__ import annotations

from collections.abc import Collection

from taquba._model import keys
from taquba._model.batch import Batch
from taquba._model.keys import Op


def made_for(batch: Batch, marked: Collection[str], now: int) -> list[Op]:
    """The marks to write with a batch; its custom ids `marked` already have theirs."""
    new_ids = (job_id for job_id in batch.own_ids if job_id not in marked)
    ops: list[Op] = []
    for mark in (keys.batch_mark(batch.name), *map(keys.job_mark, new_ids)):
        ops += [(mark, b""), (keys.mark_time(now, mark), b"")]
    return ops


def swept(key: bytes) -> list[Op]:
    """An old mark leaves; `key` is that of its time."""
    _, mark = keys.marked_at(key)
    return [(key, None), (mark, None)]
