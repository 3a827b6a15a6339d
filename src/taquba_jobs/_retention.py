"""How long outcomes are kept: every end writes when it is to be forgotten, a sweep reads that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from taquba import JobRecord, Queue, SettlementEffects, TaqubaError
from taquba_jobs._decisions import Failure, Stored, end
from taquba_jobs._rows import (
    EXPIRIES,
    Damaged,
    Expiry,
    Outcome,
    Submission,
    decode,
    encode,
    expiry_key,
    expiry_ms,
    object_key,
    outcome_key,
)

_log: Final = logging.getLogger(__name__)

_PAGE: Final = 128
_RECHECK_MS: Final = 1000
_RETRY_MS: Final = 1000

_UPLOAD_MS: Final = 3600 * 1000
"""After this, an object that no outcome names is taken for one that a crash left behind."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Effects that end a job. Whoever applies them says so, for the sweep to come in time."""

    retention: Retention
    effects: SettlementEffects
    expires_at: int | None

    def landed(self) -> None:
        """The effects are applied."""
        if self.expires_at is not None:
            self.retention.note(self.expires_at)


class Retention:
    """Forgets outcomes when their time is over, with their idempotency keys and objects.

    A sweep reads what is due and the first entry that is not, nothing else.

    Args:
        queue: The open queue.
        keep_ms: How long an outcome is kept; None for ever.
    """

    def __init__(self, queue: Queue, keep_ms: int | None) -> None:
        self.queue = queue
        self._keep_ms = keep_ms
        self._due = asyncio.Event()
        self._armed_for: int | None = None
        self._disarm_timer: Callable[[], None] | None = None
        self._sweeping = False
        queue.clock.attach(lambda: self._sweeping)

    def end(self, job: JobRecord, result: Stored | Failure, *, reported: bool) -> Ending:
        """What ends a job, by this runner's retention and the queue's clock."""
        now = self.queue.clock.time_ms()
        effects = end(job, result, now, self._keep_ms, reported=reported)
        return Ending(self, effects, None if self._keep_ms is None else now + self._keep_ms)

    async def store(self, job_id: str, data: bytes) -> Stored:
        """Write a large result as an object; a crash before it is named leaves it to the sweep."""
        # A name that is used once: what an attempt that was given up still writes hits nothing.
        unique = self.queue.next_job_id()
        key = object_key(job_id, unique)
        due = self.queue.clock.time_ms() + _UPLOAD_MS
        marker = expiry_key(due, f"{job_id}/{unique}")
        await self.queue.kv_put(marker, encode(Expiry(None, None, key)))
        await self.queue.objects.put(key, data)
        self.note(due)
        return Stored(None, key, marker)

    def note(self, due: int) -> None:
        """An entry that is written is due then."""
        if self._armed_for is None or due < self._armed_for:
            self._arm(due)

    async def run(self) -> None:
        """Sweep whenever something is due, until cancelled."""
        try:
            while True:
                await self._round()
                await self._due.wait()
                self._due.clear()
        finally:
            self._disarm()

    async def _round(self) -> None:
        self._disarm()
        self._sweeping = True
        try:
            due = await self.sweep()
        except TaqubaError as error:
            if error.permanent:
                raise
            _log.warning("could not remove outcomes whose retention is over: %s", error)
            due = self.queue.clock.time_ms() + _RETRY_MS
        finally:
            self._sweeping = False
        if due is not None:
            # What was noted meanwhile may have been written behind the sweep.
            self.note(due)

    def _arm(self, due: int) -> None:
        self._disarm()
        self._armed_for = due
        timer = self.queue.clock.call_at(due, _RECHECK_MS, self._due.set)
        self._disarm_timer = timer.cancel

    def _disarm(self) -> None:
        if self._disarm_timer is not None:
            self._disarm_timer()
        self._disarm_timer = self._armed_for = None

    async def sweep(self) -> int | None:
        """Forget what is due; returns when the next is, in ms, or None when nothing is kept."""
        cursor: str | None = None
        while True:
            page = await self.queue.kv_scan(EXPIRIES, cursor, _PAGE)
            now = self.queue.clock.time_ms()
            dues = [self._due_ms(entry.key) for entry in page.entries]
            await asyncio.gather(
                *(
                    self._forget(due, entry.key, entry.value)
                    for due, entry in zip(dues, page.entries, strict=True)
                    if due is not None and due <= now
                )
            )
            for due in dues:
                if due is not None and due > now:
                    return due
            cursor = page.next_cursor
            if cursor is None:
                return None

    @staticmethod
    def _due_ms(key: str) -> int | None:
        due = expiry_ms(key)
        if due is None:
            _log.warning("the entry %r is none of taquba_jobs': delete it, or rename it", key)
        return due

    async def _forget(self, due: int, marker: str, value: bytes) -> None:
        """Forget one thing; after a crash at any point the next sweep goes on with it.

        What cannot be read is left, and hinders nothing else.
        """
        try:
            await self._forget_one(due, marker, decode(Expiry, marker, value))
        except Damaged as error:
            _log.warning("%s", error)

    async def _forget_one(self, due: int, marker: str, expiry: Expiry) -> None:
        if expiry.job_id is not None:
            await self._forget_outcome(expiry.job_id, expiry.submission_key, due)
        elif expiry.object_key is not None:
            await self.queue.objects.delete([expiry.object_key])
        await self.queue.kv_delete(marker)

    async def _forget_outcome(self, job_id: str, submission_key: str | None, due: int) -> None:
        # A job that was requeued has ended again: its newer outcome has an entry of its own.
        if submission_key is not None:
            row = await self.queue.kv_get(submission_key)
            if row is not None:
                submission = decode(Submission, submission_key, row)
                if submission.job_id == job_id and submission.expires_at == due:
                    await self.queue.kv_compare_delete(submission_key, row)
        row = await self.queue.kv_get(outcome_key(job_id))
        if row is None:
            return
        outcome = decode(Outcome, outcome_key(job_id), row)
        if outcome.expires_at == due:
            # The object first: once the outcome is gone, nothing would lead to it.
            if outcome.object_key is not None:
                await self.queue.objects.delete([outcome.object_key])
            await self.queue.kv_compare_delete(outcome_key(job_id), row)
