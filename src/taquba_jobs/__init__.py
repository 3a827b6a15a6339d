"""taquba_jobs: typed background functions with awaitable results on a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _cli         the command `taquba progress`, imported only by taquba's command line
    _runner      `JobRunner`: submits jobs, and runs them
    _attempt     one attempt at a job: decode, run, and say how it ended
    _submission  submitting: arguments to a job, once per idempotency key
    _decorator   `job`: makes a function a job
    _context     `JobContext`: the first argument of a job's function
    _handle      `JobHandle`: the submitter's handle on a job
    _retention   removes outcomes when their retention is over
    _outcomes    reading jobs and their outcomes, through the owner's queue or a reader
    _decisions   the rows that an end, a submission or a sweep writes: pure functions
    _job         `Job`: a job's function, its options, and its arguments
    _progress    reports of progress: the newest one is written, at most once a second
    _errors      what can go wrong with typed jobs, beside the errors of taquba itself
    _rows        rows under ``jobs/``: keys, and values as MessagePack
"""

from taquba_jobs._attempt import Verdict
from taquba_jobs._context import JobContext, Middleware
from taquba_jobs._decorator import (
    AsyncJob,
    JobDecorator,
    PlainJob,
    job,
    payload_idempotency_key,
)
from taquba_jobs._errors import DetachedContext, FailureKind, InputMismatch, JobFailed
from taquba_jobs._handle import JobHandle, as_completed, gather
from taquba_jobs._job import Job, Upcast
from taquba_jobs._outcomes import (
    JobProgress,
    JobState,
    fetch_progress,
    fetch_result,
    fetch_status,
)
from taquba_jobs._runner import JobRunner
from taquba_jobs._submission import SubmitOptions

__all__ = [
    "AsyncJob",
    "DetachedContext",
    "FailureKind",
    "InputMismatch",
    "Job",
    "JobContext",
    "JobDecorator",
    "JobFailed",
    "JobHandle",
    "JobProgress",
    "JobRunner",
    "JobState",
    "Middleware",
    "PlainJob",
    "SubmitOptions",
    "Upcast",
    "Verdict",
    "as_completed",
    "fetch_progress",
    "fetch_result",
    "fetch_status",
    "gather",
    "job",
    "payload_idempotency_key",
]
