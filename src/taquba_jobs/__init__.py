"""taquba_jobs: typed background functions with awaitable results on a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _cli          the command `taquba progress`, imported by taquba's command line alone
    _runner       the facade `JobRunner`: submit, run
    _attempt      runs one attempt and says how it ended
    _submission   arguments to a job, once per idempotency key
    _handle       awaiting a job, or many
    _outcomes, _progress, _retention   reading outcomes; reports; forgetting
    _decisions    what an end or a submission means for the rows, as pure functions
    _job, _context   a function as a job, and what it gets
    _rows   rows as MessagePack
    _errors            errors
"""

from taquba_jobs._attempt import Verdict
from taquba_jobs._context import JobContext, Middleware
from taquba_jobs._errors import DetachedContext, FailureKind, InputMismatch, JobFailed
from taquba_jobs._handle import JobHandle, as_completed, gather
from taquba_jobs._job import (
    AsyncJob,
    Job,
    JobDecorator,
    PlainJob,
    Upcast,
    job,
    payload_idempotency_key,
)
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
