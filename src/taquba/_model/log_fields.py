"""Fields of log records that are about a queue or a job, for handlers that write JSON."""

from __future__ import annotations

from taquba._model.records import JobView


def about_queue(name: str) -> dict[str, str | int]:
    """The `extra` of a log record about a queue."""
    return {"taquba_queue": name}


def about_job(job: JobView) -> dict[str, str | int]:
    """The `extra` of a log record about an attempt at a job. Never its payload."""
    return {"taquba_queue": job.queue, "taquba_job_id": job.id, "taquba_attempt": job.attempts}
