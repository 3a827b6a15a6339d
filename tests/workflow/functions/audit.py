"""What must be true at every commit of a store with runs of functions."""

from __future__ import annotations

from taquba import JobRecord, Queue
from taquba_workflow import CallRecord, CallState, RunState, read_history
from taquba_workflow._records import EndedRun, LiveRun, Waiter, decode_signal
from taquba_workflow._steps import read_step
from tests.workflow.audit import EXPIRIES, SIGNALS, jobs, read_runs
from tests.workflow.support import entries

ENDED_CHILD = "workflow.ended_child"

Histories = dict[str, dict[tuple[str, str], CallRecord]]


async def audit(queue: Queue) -> dict[str, LiveRun | EndedRun]:
    """Check everything; nothing may be running meanwhile."""
    await queue.promote_scheduled_now()
    runs = await read_runs(queue)
    live = {run_id: run for run_id, run in runs.items() if isinstance(run, LiveRun)}
    ended = {run_id for run_id, run in runs.items() if isinstance(run, EndedRun)}

    # One job per live run, the one its row names; others only tell parents.
    found = await jobs(queue, "workflow")
    turns = [read_step(job) for job in found if ENDED_CHILD not in job.headers]
    assert sorted((turn.run_id, turn.step_number, turn.job_id) for turn in turns) == sorted(
        (run_id, run.step_number, run.job_id) for run_id, run in live.items()
    )
    assert all(told(job) in ended for job in found if ENDED_CHILD in job.headers)

    # A run that waits is the waiter of its signals; a waiter's job is there.
    by_job = {turn.job_id: turn for turn in turns}
    for key, value in (await entries(queue, SIGNALS)).items():
        row = decode_signal(value)
        if isinstance(row, Waiter):
            assert by_job[row.job_id].run_id == row.run_id
            assert key.removeprefix(SIGNALS) in by_job[row.job_id].waited_for

    # A child is there if and only if its parent's history says so; retention will find all ends.
    histories = await read_histories(queue)
    for history in histories.values():
        for record in history.values():
            assert record.child_run_id is None or record.child_run_id in runs
    expiries = [key.rpartition("/")[2] for key in await entries(queue, EXPIRIES)]
    assert sorted(expiries) == sorted(ended)
    return runs


def told(job: JobRecord) -> str:
    return job.headers[ENDED_CHILD]


async def read_histories(queue: Queue) -> Histories:
    return {
        run_id: {(record.call, record.kind): record for record in await read_history(queue, run_id)}
        for run_id in await read_runs(queue)
    }


def check_grown(before: Histories, after: Histories) -> None:
    """What was recorded once stays as it was."""
    for run_id, history in before.items():
        for call, record in history.items():
            later = after[run_id][call]
            if record.state is CallState.WAITING:
                unchanged = (later.state, later.failures) == (record.state, record.failures)
                assert not unchanged or later.due == record.due
            else:
                assert later == record


def states(runs: dict[str, LiveRun | EndedRun]) -> dict[str, RunState | None]:
    return {
        run_id: run.state if isinstance(run, EndedRun) else None for run_id, run in runs.items()
    }
