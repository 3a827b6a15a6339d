"""Callbacks of users: called by the event loop, never by the code that triggers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from taquba._model.ending import ends_program, legible
from taquba._model.log_fields import about_job
from taquba._model.records import Job, JobView
from taquba._model.redaction import without_secrets

_log: Final = logging.getLogger(__name__)


def call_soon(callbacks: Iterable[Callable[[], None]], job: Job | None = None) -> None:
    """Let the event loop call them, in order; an exception is logged and stops no other."""
    asyncio.get_running_loop().call_soon(call_all, callbacks, job)


def call_all(callbacks: Iterable[Callable[[], None]], job: Job | None) -> None:
    """Call them, in order, from the event loop; an exception is logged and stops no other."""
    for callback in callbacks:
        try:
            callback()
        except BaseException as raised:
            error = legible(raised)
            if ends_program(error):
                raise
            if job is None:
                what = "a callback failed that was told of a job's cancellation"
                _log.error(what, exc_info=without_secrets(error))
            else:
                what = "a callback for job %s of queue %r failed"
                _log.error(
                    what,
                    job.id,
                    job.queue,
                    exc_info=without_secrets(error),
                    extra=about_job(JobView(job)),
                )
