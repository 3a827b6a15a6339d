"""Results of tasks: what the store keeps of one, and what Django shows of it."""

# The annotations of django-tasks leave type arguments out.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.utils import timezone

from taquba._interface.store import ReadableStore
from taquba._model.codec import UNREADABLE
from taquba._model.describing import describe
from taquba._model.options import PRIORITY_NORMAL
from taquba._model.records import JobRecord, JobStatus
from taquba._worker.outcomes import PermanentFailure
from taquba.extending.expiries import expiry_key
from taquba.extending.times import from_ms, to_ms
from taquba.integrations.django._finding import task_at
from taquba.integrations.django._tasks import Task, TaskError, TaskResult, TaskResultStatus

EXPIRIES: Final = "django/expiry/"
_ROWS: Final = "django/task/"

_LARGE_CALL: Final = 64 * 1024
"""Arguments of more bytes are not kept a second time, beside those of the job."""
_LARGE_VALUE: Final = 128 * 1024
_LARGE_ROW: Final = 250 * 1024
_LONGEST_TRACEBACK: Final = 16_000

_UNKNOWN: Final = "taquba.PermanentFailure"
UNNAMED: Final = "taquba"
"""Stands for a process whose name is not known."""

_STATUS: Final = {
    JobStatus.PENDING: TaskResultStatus.READY,
    JobStatus.SCHEDULED: TaskResultStatus.READY,
    JobStatus.CLAIMED: TaskResultStatus.RUNNING,
    JobStatus.DEAD: TaskResultStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store keeps of a task, beside its job, once an attempt has ended.

    Attributes:
        queue: The name of its queue.
        priority: The job's.
        enqueued_at: When it was enqueued, ms since the Unix epoch, as all times here.
        call: What it was called with; None if that is large.
        started_at: When the first attempt began.
        attempted_at: When the last one began.
        finished_at: When the task ended; None while it will be tried again.
        errors: Of each attempt that failed, the path of the exception's class, and its traceback.
        workers: Of each attempt, the process that ran it.
        value: What the task returned.
        until: When this is removed.
    """

    queue: str
    priority: int
    enqueued_at: int
    call: dict[str, Any] | None
    started_at: int
    attempted_at: int
    until: int
    finished_at: int | None = None
    failed: bool = False
    errors: list[list[str]] = field(default_factory=list[list[str]])
    workers: list[str] = field(default_factory=list[str])
    value: Any = None

    @classmethod
    def load(cls, row: bytes | None) -> Kept | None:
        return None if row is None else cls(**json.loads(row))

    def dump(self) -> bytes:
        """JSON, without arguments if they are large, and the oldest tracebacks if these are."""
        shown = self
        row = json.dumps(asdict(shown)).encode()
        while len(row) > _LARGE_ROW and len(shown.errors) > 1:
            shown = replace(shown, errors=shown.errors[1:])
            row = json.dumps(asdict(shown)).encode()
        return row


def row_key(job_id: str) -> str:
    """The entry of a task."""
    return _ROWS + job_id


def entries(job_id: str, kept: Kept) -> dict[str | bytes, bytes]:
    """The entries to write for a task: what is kept, and when it expires."""
    return {row_key(job_id): kept.dump(), expiry_key(EXPIRIES, kept.until, job_id): b""}


def call_of(job: JobRecord) -> dict[str, Any] | None:
    """What a task is called with; None if the job is not a task."""
    try:
        call = json.loads(job.payload)
        return {"task": call["task"], "args": call["args"], "kwargs": dict(call["kwargs"])}
    except UNREADABLE:
        return None


def begun(job: JobRecord, kept: Kept | None, now_ms: int, keep_ms: int) -> Kept:
    """What is kept of a task whose attempt has just ended, before its outcome is added."""
    started = now_ms if job.claimed_at is None else to_ms(job.claimed_at)
    return Kept(
        queue=job.queue,
        priority=job.priority,
        enqueued_at=to_ms(job.enqueued_at),
        call=call_of(job) if len(job.payload) <= _LARGE_CALL else None,
        started_at=started if kept is None else kept.started_at,
        attempted_at=started,
        until=now_ms + keep_ms,
        errors=[] if kept is None else kept.errors,
        workers=[*([] if kept is None else kept.workers), job.worker or UNNAMED],
    )


def error_of(error: BaseException) -> list[str]:
    """The path of an exception's class, and its traceback."""
    kind = type(error)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return [path, "".join(traceback.format_exception(error))[-_LONGEST_TRACEBACK:]]


def value_of(task: Task[..., Any], returned: object) -> Any:
    """What is kept of a return value: as JSON brings it back.

    Raises:
        PermanentFailure: It cannot be kept, and another attempt would not help.
    """
    try:
        text = json.dumps(returned)
        value: Any = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PermanentFailure(
            f"task {task.name!r} returned a {type(returned).__name__} that cannot be kept "
            f"({describe(error)}): return JSON values, or set keep_results to 0"
        ) from error
    if len(text) > _LARGE_VALUE:
        raise PermanentFailure(
            f"task {task.name!r} returned {len(text)} bytes of JSON, and at most {_LARGE_VALUE} "
            "are kept: store the value elsewhere, and return where"
        )
    return value


async def read(store: ReadableStore, job_id: str) -> tuple[JobRecord | None, Kept | None] | None:
    """What a store knows of a task; None if it does not know it."""
    # In this order: a job that ends leaves its entry in the same commit.
    job = await store.get_job(job_id)
    kept = Kept.load(await store.kv_get(row_key(job_id)))
    return None if job is None and kept is None else (job, kept)


def result_of(
    backend: str, job_id: str, job: JobRecord | None, kept: Kept | None
) -> TaskResult[Any] | None:
    """A result as Django shows it; None for a job that is not a task, or has left no result."""
    if job is not None and job.status is not JobStatus.DONE:
        return _of_job(backend, job, kept)
    if kept is None or kept.finished_at is None:
        return None
    call = kept.call or (None if job is None else call_of(job))
    if call is None:
        return None
    result: TaskResult[Any] = TaskResult(
        task=_task(call, kept.queue, kept.priority),
        id=job_id,
        status=TaskResultStatus.FAILED if kept.failed else TaskResultStatus.SUCCESSFUL,
        enqueued_at=_moment(kept.enqueued_at),
        started_at=_moment(kept.started_at),
        finished_at=_moment(kept.finished_at),
        last_attempted_at=_moment(kept.attempted_at),
        args=call["args"],
        kwargs=call["kwargs"],
        backend=backend,
        errors=_errors(kept),
        worker_ids=kept.workers,
    )
    # Results are frozen for their users; a backend fills them in.
    object.__setattr__(result, "_return_value", kept.value)
    return result


def _of_job(backend: str, job: JobRecord, kept: Kept | None) -> TaskResult[Any] | None:
    """The result of a task that waits, runs, or has failed."""
    call = call_of(job)
    if call is None:
        return None
    failed = job.status is JobStatus.DEAD
    attempted = shown(job.claimed_at) or (None if kept is None else _moment(kept.attempted_at))
    errors = [] if kept is None else _errors(kept)
    if failed and not errors:
        # It was not the task that failed: its processes were killed, or it is not known here.
        errors = [TaskError(exception_class_path=_UNKNOWN, traceback=job.last_error or "")]
    # Attempts that a killed process made are not among those that have ended.
    workers = [] if kept is None else kept.workers
    workers = [*workers, *[job.worker or UNNAMED] * job.attempts][: job.attempts]
    return TaskResult(
        task=_task(call, job.queue, job.priority),
        id=job.id,
        status=_STATUS[job.status],
        enqueued_at=shown(job.enqueued_at),
        started_at=attempted if kept is None else _moment(kept.started_at),
        finished_at=shown(job.failed_at),
        last_attempted_at=attempted,
        args=call["args"],
        kwargs=call["kwargs"],
        backend=backend,
        errors=errors,
        worker_ids=workers,
    )


def _task(call: dict[str, Any], queue: str, priority: int) -> Task[..., Any]:
    return task_at(call["task"]).using(queue_name=queue, priority=PRIORITY_NORMAL - priority)


def _errors(kept: Kept) -> list[TaskError]:
    return [TaskError(exception_class_path=path, traceback=text) for path, text in kept.errors]


def shown(moment: datetime | None) -> datetime | None:
    """A time as Django shows it: with USE_TZ off, a local one without a zone."""
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment)


def _moment(ms: int) -> datetime | None:
    return shown(from_ms(ms))
