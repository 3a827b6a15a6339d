"""Where a run is, read from its row and its job."""

from __future__ import annotations

from taquba import JobRecord, JobStatus, Queue, QueueReader
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import unpack
from taquba_workflow._records import (
    EndedRun,
    LiveRun,
    RunState,
    RunStatus,
    decode_run,
    moment,
)
from taquba_workflow._signals import is_waiting
from taquba_workflow._steps import read_step

Store = Queue | QueueReader
"""What runs are read from: by the owner, or in any process."""


async def read_run(store: Store, queue_name: str, run_id: str) -> LiveRun | EndedRun | None:
    row = await store.kv_get(keys_of(queue_name).run(run_id))
    return None if row is None else decode_run(row)


async def read_status(store: Store, queue_name: str, run_id: str) -> RunStatus | None:
    while True:
        run = await read_run(store, queue_name, run_id)
        if run is None:
            return None
        if isinstance(run, EndedRun):
            result = None if run.result is None else await unpack(store, run.result)
            return _ended(run_id, run, result)
        job = await store.get_job(run.job_id)
        # A run whose job is gone has moved on since its row was read.
        if job is not None and job.status is not JobStatus.dead:
            return _live(run_id, run, job)


def _ended(run_id: str, run: EndedRun, result: bytes | None) -> RunStatus:
    return RunStatus(
        run_id=run_id,
        state=run.state,
        step_number=run.step_number,
        submitted_at=moment(run.submitted_at),
        result=result,
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
