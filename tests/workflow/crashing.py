"""A process that ends at a chosen commit: the store takes nothing more from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from taquba import Queue, StoreError
from taquba._engine.engine import Engine
from taquba._model.keys import Op

Moment = Callable[[Sequence[Op]], bool]
"""Whether the process ends instead of writing these rows."""


class DyingEngine(Engine):
    """Passes writes on to the real engine, until the moment has come."""

    def __init__(self, real: Engine, moment: Moment) -> None:
        super().__init__(real._db, real._folder, real._lock)
        self._moment = moment
        self.died = asyncio.Event()
        self.writes = 0

    async def write(self, ops: Sequence[Op]) -> None:
        if self.died.is_set() or self._moment(ops):
            self.died.set()
            raise StoreError("the process has ended", permanent=True)
        self.writes += 1
        await super().write(ops)

    async def flush(self) -> None:
        if self.died.is_set():
            raise StoreError("the process has ended", permanent=True)
        await super().flush()


def die_at(queue: Queue, moment: Moment) -> DyingEngine:
    """End the process of an open queue at a moment; reopen the store *before* closing the queue."""
    owner = queue._owner
    dying = DyingEngine(owner.engine, moment)
    owner.engine = dying
    owner.committer._engine = dying
    return dying


def after_writes(count: int) -> Moment:
    left = count

    def moment(ops: Sequence[Op]) -> bool:
        nonlocal left
        left -= 1
        return left < 0

    return moment
