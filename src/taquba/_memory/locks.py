"""Short locks for decisions that had to read the store first, and watches on moving jobs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Hashable, Iterable


class KeyLocks:
    """Exclusive locks by name. Free names cost nothing; waiters are served in order."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @property
    def idle(self) -> bool:
        """True while nothing is locked."""
        return not self._waiting

    def any_held(self, names: Iterable[Hashable]) -> bool:
        """Whether somebody holds one of `names`."""
        return any(name in self._waiting for name in names)

    def take_free(self, names: Collection[Hashable]) -> HeldLocks | None:
        """Take all of `names` at once; None if one of them is held."""
        if self.any_held(names):
            return None
        held = HeldLocks(self)
        held.names += set(names)
        for name in held.names:
            self._waiting[name] = deque()
        return held

    async def acquire(self, names: Collection[Hashable]) -> HeldLocks:
        """Take all of `names`. Names are taken in one global order, so takers cannot deadlock."""
        held = HeldLocks(self)
        try:
            for name in sorted(set(names), key=repr):
                await self._acquire_one(name)
                held.names.append(name)
        except BaseException:
            held.release()
            raise
        return held

    async def _acquire_one(self, name: Hashable) -> None:
        queue = self._waiting.get(name)
        if queue is None:
            self._waiting[name] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release_one(name)
            raise

    def _release_one(self, name: Hashable) -> None:
        queue = self._waiting[name]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[name]


class HeldLocks:
    """Locks taken together; `release` releases them, once."""

    def __init__(self, locks: KeyLocks) -> None:
        self._locks = locks
        self.names: list[Hashable] = []

    def __enter__(self) -> None:
        """Hold them for a block, as in ``with await locks.acquire(names):``."""

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release them. Idempotent."""
        names, self.names = self.names, []
        for name in names:
            self._locks._release_one(name)  # pyright: ignore[reportPrivateUsage] - the two halves of one lock


class Watch:
    """Notices whether a job moved while its row was being read."""

    __slots__ = ("moved",)

    def __init__(self) -> None:
        self.moved = False


class Moves:
    """Jobs that move outside the lease registry, and reads that must notice any move.

    A decision that needs the store takes three steps: watch the job, read, and decide only if the
    job did not move meanwhile. All code that decides on a job calls `touch` (or `begin`), so a
    stale read is repeated rather than used.
    """

    def __init__(self) -> None:
        self._moving: dict[str, asyncio.Future[None]] = {}
        self._watches: dict[str, list[Watch]] = {}

    @property
    def watched(self) -> bool:
        """True while a read is watching; spares hot paths the calls of `touch`."""
        return bool(self._watches)

    def touch(self, job_id: str) -> None:
        """A decision was made on this job."""
        for watch in self._watches.get(job_id, ()):
            watch.moved = True

    def begin(self, job_id: str) -> None:
        """A move is decided; `end` it when its write was applied."""
        self._moving[job_id] = asyncio.get_running_loop().create_future()
        self.touch(job_id)

    def end(self, job_id: str) -> None:
        landed = self._moving.pop(job_id)
        if not landed.done():
            landed.set_result(None)

    def in_flight(self, job_id: str) -> asyncio.Future[None] | None:
        return self._moving.get(job_id)

    def watch(self, job_id: str) -> Watch:
        watch = Watch()
        self._watches.setdefault(job_id, []).append(watch)
        return watch

    def unwatch(self, job_id: str, watch: Watch) -> None:
        watches = self._watches[job_id]
        watches.remove(watch)
        if not watches:
            del self._watches[job_id]
