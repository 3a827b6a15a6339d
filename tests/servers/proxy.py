"""A faulty network between a queue and its object store."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from types import TracebackType
from typing import Self

from aiohttp import ClientSession
from yarl import URL

from tests.servers.faults import Count, Counts, Faults
from tests.servers.process import ServerProcess


class FaultyProxy:
    """A proxy of an object store that injects faults, and counts requests and bytes.

    It is a process of its own, so that neither it nor the queue takes time from the other.

        async with FaultyProxy(server.endpoint, Faults(latency_ms=20)) as proxy:
            ...                                     # a store at proxy.endpoint
            await proxy.inject(Faults(refuse=0.2))  # from now on
            await proxy.calm()
            puts = (await proxy.counts()).of(method="PUT").requests
    """

    def __init__(self, upstream: str, faults: Faults | None = None, *, seed: int = 0) -> None:
        self._upstream = URL(upstream)
        self._faults = Faults() if faults is None else faults
        self._seed = seed

    async def __aenter__(self) -> Self:
        self._server = await asyncio.to_thread(
            ServerProcess, "proxy_child.py", str(self._upstream), str(self._seed)
        )
        self._control = ClientSession(self._server.endpoint, raise_for_status=True)
        self.endpoint = str(URL(self._server.endpoint).join(self._upstream.relative()))
        await self.inject(self._faults)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._control.close()
        await asyncio.to_thread(self._server.close)

    async def inject(self, faults: Faults) -> None:
        """Treat requests that arrive from now on like this; reset those that hang."""
        async with self._control.put("/-/faults", json=asdict(faults)):
            pass

    async def calm(self) -> None:
        """No faults from now on, and no latency."""
        await self.inject(Faults())

    async def counts(self) -> Counts:
        """What was asked of the store so far."""
        async with self._control.get("/-/counts") as reply:
            return Counts(Count(*row) for row in await reply.json())

    async def clear_counts(self) -> None:
        """Count from zero."""
        async with self._control.delete("/-/counts"):
            pass
