"""An engine that can be made to hang: a fault between a queue and its real store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from taquba import Queue
from taquba._engine.engine import Engine
from taquba._model.keys import Op
from taquba._store.committer import Committer


def give_up_after(committer: Committer, seconds: float) -> None:
    """Change how long callers wait for a store that hangs, from the next write or flush on."""
    committer._timeout = seconds
    for watch in (committer._write_watch, committer._flush_watch):
        watch.close()
        watch._timeout = seconds


class HeldEngine(Engine):
    """Passes every call on to the real engine, once the gate for its kind is open."""

    def __init__(self, real: Engine, committer: Committer, timeout: float) -> None:
        super().__init__(real._db, real._folder, real._lock)
        self._committer = committer
        self._patience = committer._timeout
        self._timeout = timeout
        self.gates = {name: asyncio.Event() for name in ("write", "written", "flush", "get")}
        self.calls = dict.fromkeys(self.gates, 0)
        self._called = asyncio.Event()
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        """Runs when a call gets through; what it raises, the call raises."""
        self.release()

    def hold(self, *names: str) -> None:
        # Short only while something hangs: a slow machine is no hung store.
        give_up_after(self._committer, self._timeout)
        for name in names:
            self.gates[name].clear()

    def release(self, *names: str) -> None:
        give_up_after(self._committer, self._patience)
        for name in names or self.gates:
            self.gates[name].set()

    async def _pass(self, name: str) -> None:
        self.calls[name] += 1
        self._called.set()
        await self.gates[name].wait()
        if name in self.before:
            await self.before[name]()

    async def reached(self, name: str, calls: int = 1) -> None:
        """Wait until that many calls of a kind were made."""
        async with asyncio.timeout(10):
            while self.calls[name] < calls:
                self._called.clear()
                await self._called.wait()

    async def write(self, ops: Sequence[Op]) -> None:
        await self._pass("write")
        await super().write(ops)
        await self._pass("written")

    async def flush(self) -> None:
        await self._pass("flush")
        await super().flush()

    async def get(self, key: bytes) -> bytes | None:
        await self._pass("get")
        return await super().get(key)


def hold_engine(queue: Queue, timeout: float = 0.15) -> HeldEngine:
    """Put a `HeldEngine` under an open queue, whose callers give up on it after `timeout` s."""
    owner = queue._owner
    held = HeldEngine(owner.engine, owner.committer, timeout)
    owner.engine = held
    owner.committer._engine = held
    return held
