"""Removes runs that ended long enough ago, with everything that their steps remember."""

from __future__ import annotations

import logging
from typing import Final

from taquba import Clock, Store
from taquba.extending import UNREADABLE, describe, together
from taquba.extending.expiries import Expiries, Expiry, Sweeper
from taquba.extending.walks import pages
from taquba_workflow._keys import keys_of
from taquba_workflow._records import EndedRun, decode_run

_log: Final = logging.getLogger(__name__)


class Retention:
    """Reads the ends of runs in the order of time, as far as they are old enough.

    Args:
        store: An open handle on the store.
        queue_name: The workflow queue.
        clock: Where time comes from.
        keep_ms: How long a run stays after its end.
    """

    def __init__(self, store: Store, queue_name: str, clock: Clock, keep_ms: int) -> None:
        self._store = store
        self._keys = keys_of(queue_name)
        self._keep_ms = keep_ms
        self._expiries = Expiries(store, self._keys.expiries, "taquba_workflow", clock)
        self._sweeper = Sweeper(clock, self.sweep, "could not remove runs that ended long ago")

    def ended(self, now_ms: int) -> None:
        """A run has ended by now, and that is stored."""
        self._sweeper.note(now_ms + self._keep_ms)

    async def run(self) -> None:
        """Sweep whenever something is due, until cancelled."""
        await self._sweeper.run()

    async def sweep(self) -> int | None:
        """Forget what is due; returns when the next is, in ms, or None when nothing is kept."""
        return await self._expiries.sweep(self._forget, keep_ms=self._keep_ms)

    async def _forget(self, due: Expiry) -> None:
        """Remove one run; after a crash at any point, the next sweep continues with it.

        Any number of processes may do so at the same time, and one that is slow may come to the
        memos of another run, which has the id by now.
        """
        ended_at, run_id = due.at_ms, due.what
        key = self._keys.run(run_id)
        row = await self._store.kv_get(key)
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
            await self._forget_memos(run_id, key, row)
            await self._store.kv_compare_delete(key, row)
        await self._store.kv_delete(due.key)

    async def _forget_memos(self, run_id: str, key: str, row: bytes) -> None:
        """Remove what a run remembers, as long as it still has its row."""
        prefix = self._keys.memos(run_id)
        objects = [info.key async for info in self._store.objects.list(self._keys.objects(run_id))]
        async for page in pages(lambda cursor: self._store.kv_scan(prefix, cursor)):
            if page.entries and await self._store.kv_get(key) != row:
                return
            # Memos of another run are different ones.
            await together(
                self._store.kv_compare_delete(entry.key, entry.value) for entry in page.entries
            )
        if objects and await self._store.kv_get(key) == row:
            await self._store.objects.delete(objects)
