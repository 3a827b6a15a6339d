"""Signals: rows in both directions, decided under one lock per key.

A row is either a waiter or a buffered signal. Code that decides on it (for a signal that arrives, a
step that will wait, a step whose wait ended, a cancellation) holds the key's lock from reading the
row until the decision is applied, so no decision is made on a row that is about to change.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterable
from typing import Final

from taquba import (
    MAX_KV_VALUE_SIZE,
    InvalidArgument,
    JobRecord,
    JobStatus,
    Store,
    WakeOutcome,
)
from taquba.extending import UNREADABLE, HeldLocks, WordEnum, describe, seen_through
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
from taquba_workflow._turns import turns_of

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
        self._locks = turns_of(store, queue_name).signals

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
        with await self.hold([key]):
            row = await self.read(key)
            if isinstance(row, Waiter) and await self._wake(key, row, payload):
                # The row goes with the settlement of the step that was woken.
                return SignalOutcome.DELIVERED
            await self._store.kv_put(self._keys.signal(key), encode_signal(Buffered(payload)))
            return SignalOutcome.BUFFERED

    async def _wake(self, key: str, waiter: Waiter, payload: bytes) -> bool:
        job = await self._store.get_job(waiter.job_id)
        if job is None or not is_waiting(job):
            return False
        if _headers.FUNCTION in job.headers:
            payload = encode_wake(key, payload)
        return await self._store.wake_scheduled(waiter.job_id, payload) is WakeOutcome.WOKEN

    async def clear(self, key: str) -> bool:
        _values.name(key, "a signal key")
        return await seen_through(self._clear(key))

    async def _clear(self, key: str) -> bool:
        with await self.hold([key]):
            if not isinstance(await self.read(key), Buffered):
                return False
            await self._store.kv_delete(self._keys.signal(key))
            return True

    async def waiter(self, key: str) -> Waiter | None:
        """Who waits for a signal; its lock must be held."""
        row = await self.read(key)
        if not isinstance(row, Waiter):
            return None
        job = await self._store.get_job(row.job_id)
        return row if job is not None and is_waiting(job) else None

    async def look(self, keys: Collection[str]) -> None:
        """Wait until nobody decides on signals: their waiter, which begins now, cannot be woken."""
        (await self.hold(keys)).release()

    async def hold(self, names: Collection[Hashable]) -> HeldLocks:
        """Keep others from deciding on these signals, until it is released."""
        return await self._locks.acquire(names)

    async def read(self, key: str) -> Waiter | Buffered | None:
        row = await self._store.kv_get(self._keys.signal(key))
        try:
            return None if row is None else decode_signal(row)
        except UNREADABLE as error:
            _log.warning("the row of signal %r cannot be read: %s", key, describe(error))
            return None

    async def rows(self, keys: Iterable[str]) -> SignalRows:
        """The rows of signals whose locks are held."""
        return {key: await self.read(key) for key in keys}
