"""The status of a run, read from its row and its job."""

from __future__ import annotations

from datetime import datetime

from taquba import (
    JobNotFound,
    JobRecord,
    JobStatus,
    PermanentFailure,
    ReadableStore,
    StoreError,
)
from taquba.extending import UNREADABLE, describe
from taquba.extending.times import from_ms
from taquba_workflow import _headers
from taquba_workflow._keys import keys_of
from taquba_workflow._memo import unpack
from taquba_workflow._records import (
    EndedRun,
    LiveRun,
    RunState,
    RunStatus,
    decode_run,
)
from taquba_workflow._signals import is_waiting
from taquba_workflow._steps import StepJob, read_step
from taquba_workflow._transitions import NEVER


async def read_run(
    store: ReadableStore, queue_name: str, run_id: str, *, durable: bool = False
) -> LiveRun | EndedRun | None:
    """The row of a run; on request as it would survive a crash."""
    key = keys_of(queue_name).run(run_id)
    return run_of(run_id, key, await store.kv_get(key, durable=durable))


def run_of(run_id: str, key: str, row: bytes | None) -> LiveRun | EndedRun | None:
    """What the row of a run says.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return None if row is None else decode_run(row)
    except UNREADABLE as error:
        raise StoreError(
            f"the row of run {run_id!r} cannot be read ({describe(error)}): delete the entry "
            f"{key!r} to have the id free again",
            permanent=True,
        ) from error


async def read_step_job(
    store: ReadableStore, queue_name: str, run_id: str, *, durable: bool = False
) -> JobRecord | EndedRun | None:
    """The job of a run's step, or how the run ended, or None if there is no such run.

    Raises:
        JobNotFound: The run's row says that it lives, and its job was settled or removed by hand.
    """
    before: LiveRun | None = None
    while True:
        run = await read_run(store, queue_name, run_id, durable=durable)
        if not isinstance(run, LiveRun):
            return run
        if run == before:
            raise JobNotFound(run.job_id)
        job = await store.get_job(run.job_id)
        # A run whose job is gone has moved on since its row was read.
        if job is not None and job.status is not JobStatus.DEAD:
            return job
        before = run


async def read_status(store: ReadableStore, queue_name: str, run_id: str) -> RunStatus | None:
    found = await read_step_job(store, queue_name, run_id)
    if isinstance(found, EndedRun):

        async def is_kept() -> bool:
            return await read_run(store, queue_name, run_id) == found

        result = None if found.result is None else await unpack(store, found.result, is_kept)
        return _ended(run_id, found, result)
    return None if found is None else live_status(found)


def _ended(run_id: str, run: EndedRun, result: bytes | None) -> RunStatus:
    return RunStatus(
        run_id=run_id,
        state=run.state,
        step_number=run.step_number,
        submitted_at=from_ms(run.submitted_at),
        result=result,
        reason=run.reason,
        ended_at=from_ms(run.ended_at),
    )


def live_status(job: JobRecord) -> RunStatus:
    """The status of the run of a step's job."""
    step = read_step(job)
    state = _state(job, step)
    return RunStatus(
        run_id=step.run_id,
        state=state,
        step_number=step.step_number,
        submitted_at=from_ms(step.submitted_at),
        attempts=job.attempts,
        starts_at=_starts_at(job, step),
        signal_keys=step.waited_for if state is RunState.WAITING else (),
        last_error=job.last_error,
    )


def parked_status(job: JobRecord) -> RunStatus:
    """The status of a run; for a job that is not a step, as far as it is known."""
    try:
        return live_status(job)
    except PermanentFailure as error:
        return RunStatus(
            run_id=job.headers.get(_headers.RUN_ID, job.id),
            state=RunState.SLEEPING,
            step_number=0,
            submitted_at=job.enqueued_at,
            attempts=job.attempts,
            starts_at=job.run_at,
            last_error=str(error),
        )


def _starts_at(job: JobRecord, step: StepJob) -> datetime | None:
    if job.status is not JobStatus.SCHEDULED or job.run_at is None:
        return None
    # A run that waits forever has a job that is due in the very distant future.
    return None if job.run_at - from_ms(step.submitted_at) >= NEVER else job.run_at


def _state(job: JobRecord, step: StepJob) -> RunState:
    turn = step.function
    if job.cancel_requested or (turn is not None and turn.cancelling):
        return RunState.CANCELLING
    match job.status:
        case JobStatus.PENDING:
            return RunState.PENDING
        case JobStatus.SCHEDULED:
            waits = step.waited_for or (turn is not None and turn.children)
            return RunState.WAITING if waits and is_waiting(job) else RunState.SLEEPING
        case _:
            return RunState.RUNNING
