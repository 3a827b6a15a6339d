"""Runs that belong to another: their end wakes it.

The commit that ends a child brings a job that wakes its parent. While the parent does not wait,
that job leaves a mark instead. A turn reads the mark before it looks at its first child, and lands
only while the mark is the same: so either the turn finds the child ended, or the job finds the turn
waiting.
"""

from __future__ import annotations

from collections.abc import Collection

from taquba import SettlementEffects, Store, WakeOutcome
from taquba.extending import together
from taquba_workflow._keys import keys_of
from taquba_workflow._records import LiveRun
from taquba_workflow._signals import is_waiting
from taquba_workflow._status import read_run, run_of
from taquba_workflow._steps import read_step

_NOTHING = SettlementEffects()


def mark_key(queue_name: str, run_id: str) -> str:
    """Key of the mark that a child of this run has ended."""
    return f"{keys_of(queue_name).memos(run_id)}ended"


async def any_ended(store: Store, queue_name: str, run_ids: Collection[str]) -> bool:
    """Whether one of these runs has ended."""
    ended = False

    async def look(run_id: str) -> None:
        nonlocal ended
        if not isinstance(await read_run(store, queue_name, run_id), LiveRun):
            ended = True

    await together(look(run_id) for run_id in run_ids)
    return ended


async def tell_parent(
    store: Store, queue_name: str, run_id: str, told_by: str
) -> SettlementEffects:
    """Start the next turn of a run whose child has ended, or return the mark for a turn that runs.

    Args:
        store: An open handle on the store.
        queue_name: The workflow queue.
        run_id: The run.
        told_by: Id of the job that tells it, which makes its mark different from all others.
    """
    key = keys_of(queue_name).run(run_id)
    before: bytes | None = None
    while True:
        row = await store.kv_get(key)
        run = run_of(run_id, key, row)
        if row is None or row == before or not isinstance(run, LiveRun):
            return _NOTHING
        job = await store.get_job(run.job_id)
        if job is None:
            # It has moved on, or its job was removed by hand.
            before = row
            continue
        turn = read_step(job)
        if is_waiting(job) and (turn.function is None or not turn.function.children):
            return _NOTHING
        # Also to make sure that what was read of a turn that does not wait would survive a crash.
        if await store.wake_scheduled(job.id, if_unbegun=True) is WakeOutcome.WOKEN:
            return _NOTHING
        return SettlementEffects(
            kv_writes={mark_key(queue_name, run_id): told_by.encode()},
            kv_expected={key: row},
        )
