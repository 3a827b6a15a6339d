"""Submitting: arguments to a job, once per idempotency key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, ParamSpec, TypeVar

from taquba import (
    Duration,
    EnqueueRequest,
    EntryChanged,
    InvalidArgument,
    JobRecord,
    JobStatus,
    KvKey,
)
from taquba.extending import OutcomeUnknown, seen_through
from taquba_jobs._decisions import RESERVED, Answer, job_headers, look_up
from taquba_jobs._errors import InputMismatch
from taquba_jobs._handle import JobHandle
from taquba_jobs._job import Job
from taquba_jobs._retention import Retention
from taquba_jobs._rows import Damaged, Submission, decode, encode, idempotency_key

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """Options of one submission, which replace those of its job.

    They apply to a new job; a submission that finds an earlier one does not change it.

    Attributes:
        priority: Unsigned 32-bit; lower first.
        max_attempts: Attempts before the job has failed.
        run_at: Earliest start, timezone-aware; a past one starts at once. Not with `delay`.
        delay: Earliest start, from now, seconds or `timedelta`.
        headers: Small string pairs that travel with the job; names do not start with ``jobs.``.
    """

    priority: int | None = None
    max_attempts: int | None = None
    run_at: datetime | None = None
    delay: Duration | None = None
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        # Its checks are those of a job.
        EnqueueRequest(
            "jobs",
            b"",
            priority=self.priority,
            max_attempts=self.max_attempts,
            run_at=self.run_at,
            delay=self.delay,
            headers=self.headers,
        )
        for name in self.headers or ():
            if name.startswith(RESERVED):
                raise InvalidArgument(
                    f"headers that start with {RESERVED!r} are reserved; got {name!r}"
                )


def _is_cancelled(job: JobRecord) -> bool:
    """Whether a job without an outcome was cancelled, and is dead because its worker died."""
    return job.status is JobStatus.DEAD and job.cancel_requested


DEFAULTS: Final = SubmitOptions()


class Submissions:
    """Puts jobs into their queues.

    Args:
        retention: The retention of the runner.
        queue_name: The queue of jobs that name none.
    """

    def __init__(self, retention: Retention, queue_name: str) -> None:
        self._store = retention.store
        self._retention = retention
        self._queue_name = queue_name

    async def submit(
        self, job: Job[S, P, T], options: SubmitOptions, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]:
        values = job.signature.bind(args, kwargs)
        # Before the key: the user's function might change them.
        payload = job.signature.pack(values)
        key = job.key_of(values)
        if key is None:
            request = self._request(job, options, payload, job_headers(options.headers, job))
            added = await self._store.enqueue_batch([request])
            return self._handle(job, added[0].id, True)
        mark = job.signature.fingerprint(values)
        return await seen_through(self._once(job, options, payload, key, mark))

    async def _once(
        self,
        job: Job[Any, ..., T],
        options: SubmitOptions,
        payload: bytes,
        key: str,
        mark: bytes,
    ) -> JobHandle[T]:
        """Submit a job, unless its key has one."""
        job_id = self._store.next_job_id()
        request = self._request(
            job,
            options,
            payload,
            job_headers(options.headers, job, key, mark),
            job_id=job_id,
            kv_writes={key: encode(Submission(job_id, mark))},
        )
        # Most keys are new.
        row: bytes | None = None
        while True:
            try:
                await self._store.enqueue_batch([request], kv_expected={key: row})
            except (EntryChanged, OutcomeUnknown):
                pass
            else:
                return self._handle(job, job_id, True)
            row = await self._store.kv_get(key, durable=True)
            submission = self._read(key, row)
            if submission is not None and submission.job_id == job_id:
                # The call was carried out by an owner that did not live to answer it.
                return self._handle(job, job_id, True)
            if submission is not None and await self._stands(submission):
                return self._met(job, key, submission, mark)

    async def _stands(self, submission: Submission) -> bool:
        """Whether a submission holds its key: its outcome is kept, or its job exists.

        A job that is not there may have ended since its submission was read: then the entry of the
        key is another one by now.
        """
        match look_up(submission, self._now()):
            case Answer.FINISHED:
                return True
            case Answer.UNFINISHED:
                job = await self._store.get_job(submission.job_id)
                return job is not None and not _is_cancelled(job)
            case Answer.NOTHING:
                return False

    def _read(self, key: str, row: bytes | None) -> Submission | None:
        try:
            return None if row is None else decode(Submission, key, row)
        except Damaged as error:
            # The new submission takes its place.
            _log.warning("%s", error)
            return None

    def _met(
        self, job: Job[Any, ..., T], key: str, submission: Submission, mark: bytes
    ) -> JobHandle[T]:
        if submission.fingerprint != mark:
            raise InputMismatch(job.name, idempotency_key(key), submission.job_id)
        return self._handle(job, submission.job_id, False)

    def _request(
        self,
        job: Job[Any, ..., object],
        options: SubmitOptions,
        payload: bytes,
        headers: Mapping[str, str],
        job_id: str | None = None,
        kv_writes: Mapping[KvKey, bytes] | None = None,
    ) -> EnqueueRequest:
        own = job.options
        return EnqueueRequest(
            self._queue_name if job.queue is None else job.queue,
            payload,
            run_at=options.run_at,
            delay=options.delay,
            priority=own.priority if options.priority is None else options.priority,
            max_attempts=(
                own.max_attempts if options.max_attempts is None else options.max_attempts
            ),
            headers=headers,
            job_id=job_id,
            kv_writes=kv_writes,
        )

    def _handle(self, job: Job[Any, ..., T], job_id: str, new: bool) -> JobHandle[T]:
        return JobHandle(self._retention, job, job_id, new)

    def _now(self) -> int:
        return self._store.clock.time_ms()
