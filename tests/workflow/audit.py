"""What must be true of a store with runs at every commit."""

from __future__ import annotations

from collections import Counter

from taquba import EnqueueRequest, JobRecord, JobStatus, Queue
from taquba_workflow import RunOutcome, RunState, Step, TerminalEffects, TerminalHook
from taquba_workflow._records import (
    EndedRun,
    LiveRun,
    Waiter,
    decode_run,
    decode_signal,
)
from taquba_workflow._steps import read_step
from tests.workflow.support import entries

RUNS = "workflow/run/workflow/"
SIGNALS = "workflow/signal/workflow/"
EXPIRIES = "workflow/expiry/workflow/"
MARKS = "marks"
TOLD = "told"


def mark(step: Step) -> None:
    """Stage a job that tells that this step was settled with an outcome."""
    headers = {"run": step.run_id, "step": str(step.step_number)}
    step.effects.enqueue(EnqueueRequest(MARKS, b"", headers=headers))


class Told(TerminalHook):
    """Keeps one job per outcome that it was told of."""

    async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
        effects.enqueue(EnqueueRequest(TOLD, b"", headers={"run": outcome.run_id}))


async def jobs(queue: Queue, name: str) -> list[JobRecord]:
    """All jobs that are not finished."""
    found: list[JobRecord] = []
    for status in (JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.CLAIMED):
        cursor: str | None = None
        while True:
            page = await queue.list_jobs(name, status, cursor, 1000)
            found += page.jobs
            cursor = page.next_cursor
            if cursor is None:
                break
    return found


async def read_runs(queue: Queue) -> dict[str, LiveRun | EndedRun]:
    rows = await entries(queue, RUNS)
    return {key.removeprefix(RUNS): decode_run(row) for key, row in rows.items()}


async def audit(queue: Queue) -> dict[str, LiveRun | EndedRun]:
    """Check everything, of runs whose steps mark each of their outcomes and whose hook is `Told`.

    Nothing may be running meanwhile.
    """
    # A job that becomes due meanwhile would be missed where it was and where it is.
    await queue.promote_scheduled_now()
    runs = await read_runs(queue)
    live = {run_id: run for run_id, run in runs.items() if isinstance(run, LiveRun)}
    ended = {run_id: run for run_id, run in runs.items() if isinstance(run, EndedRun)}

    # One job per live run, the one its row names, and no other.
    steps = [read_step(job) for job in await jobs(queue, "workflow")]
    assert sorted((step.run_id, step.step_number, step.job_id) for step in steps) == sorted(
        (run_id, run.step_number, run.job_id) for run_id, run in live.items()
    )

    # What a step staged is there once if it was settled, and else not at all.
    marks = Counter(
        (job.headers["run"], int(job.headers["step"])) for job in await jobs(queue, MARKS)
    )
    expected: set[tuple[str, int]] = set()
    for run_id, run in runs.items():
        settled = run.step_number
        if isinstance(run, EndedRun) and run.state is RunState.SUCCEEDED:
            settled += 1
        expected |= {(run_id, number) for number in range(settled)}
    assert marks == Counter(expected)

    # Every end is announced once, and will be found by retention.
    told = [job.headers["run"] for job in await jobs(queue, TOLD)]
    told += [job.headers["workflow.run_id"] for job in await jobs(queue, "workflow.termination")]
    assert sorted(told) == sorted(ended)
    expiries = [key.rpartition("/")[2] for key in await entries(queue, EXPIRIES)]
    assert sorted(expiries) == sorted(ended)

    # A run that waits is the waiter of its signal; a waiter's job is there.
    waiters = {
        key.removeprefix(SIGNALS): row
        for key, value in (await entries(queue, SIGNALS)).items()
        if isinstance(row := decode_signal(value), Waiter)
    }
    by_job = {step.job_id: step for step in steps}
    for key, waiter in waiters.items():
        assert by_job[waiter.job_id].run_id == waiter.run_id
        assert key in by_job[waiter.job_id].waited_for
    return runs
