"""Runs that belong to another: their end wakes it.

The commit that ends a child brings a job that wakes its parent. A parent that is about to wait
looks at its children first, under a lock that this job takes as well: either it finds the child
ended, or the job finds it waiting.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from taquba import Store
from taquba_workflow._records import EndedRun, LiveRun
from taquba_workflow._signals import is_waiting
from taquba_workflow._status import read_run
from taquba_workflow._turns import turns_of


def waiting_lock(run_id: str) -> Hashable:
    """Name of the lock under which a run begins to wait for its children."""
    return ("children", run_id)


async def any_ended(store: Store, queue_name: str, run_ids: Iterable[str]) -> bool:
    """Whether one of these runs has ended."""
    for run_id in run_ids:
        if not isinstance(await read_run(store, queue_name, run_id), LiveRun):
            return True
    return False


async def wake_parent(store: Store, queue_name: str, run_id: str) -> None:
    """Start the next turn of a run, if it waits."""
    with await turns_of(store, queue_name).signals.acquire([waiting_lock(run_id)]):
        run = await read_run(store, queue_name, run_id)
        if run is None or isinstance(run, EndedRun):
            return
        job = await store.get_job(run.job_id)
        if job is not None and is_waiting(job):
            await store.wake_scheduled(job.id)
