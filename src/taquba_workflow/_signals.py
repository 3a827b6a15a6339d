"""Signals: rows in both directions, each replaced only by code that has read it.

A row is either a waiter or a buffered signal. Code that decides on it (for a signal that arrives, a
step that will wait, a step whose wait ended, a cancellation) writes only while the row is as it was
read, and otherwise decides again. A signal wakes a waiter's job only if that never began and was
not woken, which the owner of the store decides; a job that has begun never waits again, so its row
is free for a signal to be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from taquba import (
    MAX_KV_VALUE_SIZE,
    InvalidArgument,
    JobRecord,
    JobStatus,
    KvKey,
    Store,
    WakeOutcome,
)
from taquba.extending import UNREADABLE, WordEnum, describe, seen_through
from taquba_workflow import _headers, _values
from taquba_workflow._keys import keys_of
from taquba_workflow._records import (
    Buffered,
    Waiter,
    decode_signal,
    encode_signal,
)
from taquba_workflow._steps import encode_wake
from taquba_workflow._transitions import SignalRows

_log: Final = logging.getLogger(__name__)

MAX_SIGNAL_SIZE: Final = MAX_KV_VALUE_SIZE - 2048
"""Largest payload of a signal, in bytes."""


class SignalOutcome(WordEnum):
    """The result of sending a signal."""

    DELIVERED = "delivered"
    """A run was waiting for it and continues."""
    BUFFERED = "buffered"
    """It is kept for the next run that waits for it."""


def is_waiting(job: JobRecord) -> bool:
    """Whether a step's job still waits for its signal: it never began, and nothing woke it."""
    # A job that was given back has an error; one that waits for its retry is not to be woken.
    return job.status is JobStatus.SCHEDULED and job.last_error is None and job.woken_at is None


class SignalBoard:
    """Sends signals, and lets steps decide on the rows of theirs."""

    def __init__(self, store: Store, queue_name: str) -> None:
        self._store = store
        self._keys = keys_of(queue_name)

    async def signal(self, key: str, payload: bytes) -> SignalOutcome:
        _values.name(key, "a signal key")
        _values.content(payload, "payload")
        if len(payload) > MAX_SIGNAL_SIZE:
            raise InvalidArgument(
                f"the signal {key!r} has {len(payload)} bytes; at most {MAX_SIGNAL_SIZE} fit: "
                "store the content and send its name"
            )
        return await seen_through(self._signal(key, payload))

    async def _signal(self, key: str, payload: bytes) -> SignalOutcome:
        name = self._keys.signal(key)
        kept = encode_signal(Buffered(payload))
        while True:
            row = await self._store.kv_get(name)
            waiter = _decode(key, row)
            if isinstance(waiter, Waiter) and await self._wake(key, waiter, payload):
                # The row goes with the settlement of the step that was woken.
                return SignalOutcome.DELIVERED
            if await self._store.kv_compare_put(name, row, kept):
                return SignalOutcome.BUFFERED

    async def _wake(self, key: str, waiter: Waiter, payload: bytes) -> bool:
        job = await self._store.get_job(waiter.job_id)
        if job is not None and _headers.FUNCTION in job.headers:
            payload = encode_wake(key, payload)
        # Also for a job that no longer waits: that answer must survive a crash.
        woken = await self._store.wake_scheduled(waiter.job_id, payload, if_unbegun=True)
        return woken is WakeOutcome.WOKEN

    async def clear(self, key: str) -> bool:
        _values.name(key, "a signal key")
        return await seen_through(self._clear(key))

    async def _clear(self, key: str) -> bool:
        name = self._keys.signal(key)
        while True:
            row = await self._store.kv_get(name, durable=True)
            if row is None or not isinstance(_decode(key, row), Buffered):
                return False
            if await self._store.kv_compare_delete(name, row):
                return True

    async def rows(self, keys: Iterable[str], expected: dict[KvKey, bytes | None]) -> SignalRows:
        """The rows of signals; what was read is noted in `expected`."""
        rows: dict[str, Waiter | Buffered | None] = {}
        for key in keys:
            name = self._keys.signal(key)
            row = expected[name] = await self._store.kv_get(name)
            rows[key] = _decode(key, row)
        return rows

    async def waiter(self, row: Waiter | Buffered | None) -> Waiter | None:
        """Who still waits for the signal that has this row."""
        if not isinstance(row, Waiter):
            return None
        job = await self._store.get_job(row.job_id)
        return row if job is not None and is_waiting(job) else None


def _decode(key: str, row: bytes | None) -> Waiter | Buffered | None:
    """The row of a signal; one that cannot be read counts as none."""
    try:
        return None if row is None else decode_signal(row)
    except UNREADABLE as error:
        _log.warning("the row of signal %r cannot be read: %s", key, describe(error))
        return None
