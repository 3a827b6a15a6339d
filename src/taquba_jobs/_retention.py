"""Retention of outcomes: every end writes when to remove it, and a sweep reads that."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from taquba import JobRecord, SettlementEffects, Store
from taquba.extending.expiries import Expiries, Sweeper, expiry_key
from taquba.extending.expiries import Expiry as Due
from taquba.extending.named import MAX_INLINE, new_name
from taquba_jobs._decisions import Failure, Stored, end
from taquba_jobs._rows import (
    EXPIRIES,
    Damaged,
    Expiry,
    Outcome,
    Submission,
    decode,
    encode,
    object_folder,
    outcome_key,
)

_log: Final = logging.getLogger(__name__)

_UPLOAD_MS: Final = 3600 * 1000
"""After this time, an object that no outcome names is considered left behind by a crash."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Effects that end a job. The code that applies them reports that, for a timely sweep."""

    retention: Retention
    effects: SettlementEffects
    expires_at: int | None

    def landed(self) -> None:
        """The effects are applied."""
        if self.expires_at is not None:
            self.retention.note(self.expires_at)


class Retention:
    """Removes outcomes when their retention is over, with their idempotency keys and objects.

    Args:
        store: An open handle on the store.
        keep_ms: How long an outcome is kept; None means forever.
    """

    def __init__(self, store: Store, keep_ms: int | None) -> None:
        self.store = store
        self._keep_ms = keep_ms
        self._expiries = Expiries(store, EXPIRIES, "taquba_jobs")
        self._sweeper = Sweeper(
            store.clock, self.sweep, "could not remove outcomes whose retention is over"
        )

    def end(self, job: JobRecord, result: Stored | Failure, *, reported: bool) -> Ending:
        """The effects that end a job, with this runner's retention and the queue's clock."""
        now = self.store.clock.time_ms()
        effects = end(job, result, now, self._keep_ms, reported=reported)
        return Ending(self, effects, None if self._keep_ms is None else now + self._keep_ms)

    async def put_away(self, job_id: str, data: bytes) -> Stored:
        """Store a packed result; a large one is an object, which the sweep finds after a crash."""
        if len(data) <= MAX_INLINE:
            return Stored(data)
        key = new_name(self.store, object_folder(job_id))
        due = self.store.clock.time_ms() + _UPLOAD_MS
        marker = expiry_key(EXPIRIES, due, key)
        await self.store.kv_put(marker, encode(Expiry(None, None, key)))
        await self.store.objects.put(key, data)
        self.note(due)
        return Stored(None, key, marker)

    def note(self, due: int) -> None:
        """Note when a written entry is due."""
        self._sweeper.note(due)

    async def run(self) -> None:
        """Sweep whenever a record is due, until cancelled."""
        await self._sweeper.run()

    async def sweep(self) -> int | None:
        """Remove due records; returns when the next one is due, in ms, or None."""
        return await self._expiries.sweep(self._forget)

    async def _forget(self, due: Due) -> None:
        """Remove one record; after a crash at any point the next sweep continues with it.

        A record that cannot be read is left, and does not affect others.
        """
        try:
            await self._forget_one(due, decode(Expiry, due.key, due.value))
        except Damaged as error:
            _log.warning("%s", error)

    async def _forget_one(self, due: Due, expiry: Expiry) -> None:
        if expiry.job_id is not None:
            await self._forget_outcome(expiry.job_id, expiry.submission_key, due.at_ms)
        elif expiry.object_key is not None:
            await self.store.objects.delete([expiry.object_key])
        await self.store.kv_delete(due.key)

    async def _forget_outcome(self, job_id: str, submission_key: str | None, due: int) -> None:
        # A job that was requeued has ended again: its newer outcome has an entry of its own.
        if submission_key is not None:
            row = await self.store.kv_get(submission_key)
            if row is not None:
                submission = decode(Submission, submission_key, row)
                if submission.job_id == job_id and submission.expires_at == due:
                    await self.store.kv_compare_delete(submission_key, row)
        row = await self.store.kv_get(outcome_key(job_id))
        if row is None:
            return
        outcome = decode(Outcome, outcome_key(job_id), row)
        if outcome.expires_at == due:
            # The object first: once the outcome is gone, nothing would lead to it.
            if outcome.object_key is not None:
                await self.store.objects.delete([outcome.object_key])
            await self.store.kv_compare_delete(outcome_key(job_id), row)
