"""Forgets runs that ended long enough ago, with all that their steps remember."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from taquba import Clock, Queue, TaqubaError, Timer
from taquba.extending import UNREADABLE, describe
from taquba_workflow._keys import keys_of
from taquba_workflow._records import EndedRun, decode_run

_log: Final = logging.getLogger(__name__)

_PAGE: Final = 64
_RECHECK_MS: Final = 1000
_RETRY_MS: Final = 1000


class Retention:
    """Reads the ends of runs in the order of time, as far as they are old enough.

    Args:
        queue: The open queue.
        queue_name: The workflow queue.
        clock: Where time comes from.
        keep: How long a run stays after its end.
    """

    def __init__(self, queue: Queue, queue_name: str, clock: Clock, keep: timedelta) -> None:
        self._queue = queue
        self._keys = keys_of(queue_name)
        self._clock = clock
        self._keep_ms = keep // timedelta(milliseconds=1)
        self._due = asyncio.Event()
        self._timer: Timer | None = None
        self._newest_end: int | None = None
        """Newest end that was decided since the last sweep began; it may not be written yet."""
        self._sweeping = False
        clock.attach(lambda: self._sweeping)

    def ended(self, now_ms: int) -> None:
        """A run ends now; whatever ended before it is due before it."""
        self._newest_end = now_ms
        if self._timer is None and not self._sweeping:
            self._sweep_at(now_ms + self._keep_ms)

    async def run(self) -> None:
        """Sweep whenever something is due, until cancelled."""
        try:
            while True:
                await self._round()
                await self._due.wait()
                self._due.clear()
                self._timer = None
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def _round(self) -> None:
        self._sweeping = True
        newest, self._newest_end = self._newest_end, None
        try:
            due = await self._guarded_sweep()
        finally:
            self._sweeping = False
        newest = self._newest_end or newest
        if due is None and newest is not None:
            due = max(newest + self._keep_ms, self._clock.time_ms() + _RETRY_MS)
        if due is not None:
            self._sweep_at(due)

    def _sweep_at(self, due: int) -> None:
        self._timer = self._clock.call_at(due, _RECHECK_MS, self._due.set)

    async def _guarded_sweep(self) -> int | None:
        try:
            return await self.sweep()
        except TaqubaError as error:
            if error.permanent:
                raise
            _log.warning("could not forget runs that ended long ago: %s", error)
            return self._clock.time_ms() + _RETRY_MS

    async def sweep(self) -> int | None:
        """Forget what is due; returns when the next is, in ms, or None when nothing is kept."""
        cursor: str | None = None
        while True:
            page = await self._queue.kv_scan(self._keys.expiries, cursor, _PAGE)
            now = self._clock.time_ms()
            ends = [self._keys.expired(entry.key) for entry in page.entries]
            old = [end for end in ends if end is not None and end[0] + self._keep_ms <= now]
            await asyncio.gather(*(self._forget(*end) for end in old))
            for end in ends:
                if end is not None and end[0] + self._keep_ms > now:
                    return end[0] + self._keep_ms
            cursor = page.next_cursor
            if cursor is None:
                return None

    async def _forget(self, ended_at: int, run_id: str) -> None:
        """Forget one run; after a crash at any point, the next sweep goes on with it."""
        key = self._keys.run(run_id)
        row = await self._queue.kv_get(key)
        try:
            run = None if row is None else decode_run(row)
        except UNREADABLE as error:
            _log.warning(
                "run %r is not forgotten, the entry %r cannot be read (%s): delete it",
                run_id,
                key,
                describe(error),
            )
            return
        # Otherwise an earlier sweep got as far as the row, and the id may be another run's by now.
        if row is not None and isinstance(run, EndedRun) and run.ended_at == ended_at:
            await self._forget_memos(run_id)
            await self._queue.kv_compare_delete(key, row)
        await self._queue.kv_delete(self._keys.expiry(ended_at, run_id))

    async def _forget_memos(self, run_id: str) -> None:
        cursor: str | None = None
        while True:
            page = await self._queue.kv_scan(self._keys.memos(run_id), cursor)
            await asyncio.gather(*(self._queue.kv_delete(entry.key) for entry in page.entries))
            cursor = page.next_cursor
            if cursor is None:
                break
        objects = [info.key async for info in self._queue.objects.list(self._keys.objects(run_id))]
        if objects:
            await self._queue.objects.delete(objects)
