"""Where a run is, read from its row and its job."""

from __future__ import annotations

from typing import Protocol

from taquba import JobRecord, JobStatus, KvKey
from taquba_workflow._records import (
    EndedRun,
    LiveRun,
    RunState,
    RunStatus,
    decode_run,
    moment,
    run_key,
)
from taquba_workflow._signals import is_waiting
from taquba_workflow._steps import read_step


class Store(Protocol):
    """What runs are read from: a `Queue`, or a `QueueReader` in any process."""

    async def kv_get(self, key: KvKey) -> bytes | None:
        """The value of an entry, or None."""
        ...

    async def get_job(self, job_id: str) -> JobRecord | None:
        """A job in any state, or None."""
        ...


async def read_run(store: Store, run_id: str) -> LiveRun | EndedRun | None:
    row = await store.kv_get(run_key(run_id))
    return None if row is None else decode_run(row)


async def read_status(store: Store, run_id: str) -> RunStatus | None:
    while True:
        run = await read_run(store, run_id)
        if run is None:
            return None
        if isinstance(run, EndedRun):
            return _ended(run_id, run)
        job = await store.get_job(run.job_id)
        # A run whose job is gone has moved on since its row was read.
        if job is not None and job.status is not JobStatus.dead:
            return _live(run_id, run, job)


def _ended(run_id: str, run: EndedRun) -> RunStatus:
    return RunStatus(
        run_id=run_id,
        state=run.state,
        step_number=run.step_number,
        submitted_at=moment(run.submitted_at),
        result=run.result,
        reason=run.reason,
        ended_at=moment(run.ended_at),
    )


def _live(run_id: str, run: LiveRun, job: JobRecord) -> RunStatus:
    state = _state(job)
    waits = state is RunState.waiting
    starts_at = job.run_at if job.status is JobStatus.scheduled else None
    return RunStatus(
        run_id=run_id,
        state=state,
        step_number=run.step_number,
        submitted_at=moment(run.submitted_at),
        attempts=job.attempts,
        starts_at=starts_at,
        signal_key=read_step(job).waited_for if waits else None,
        last_error=job.last_error,
    )


def _state(job: JobRecord) -> RunState:
    if job.cancel_requested:
        return RunState.cancelling
    match job.status:
        case JobStatus.pending:
            return RunState.pending
        case JobStatus.scheduled:
            waits = is_waiting(job) and read_step(job).waited_for is not None
            return RunState.waiting if waits else RunState.sleeping
        case _:
            return RunState.running
