"""Where a soak keeps its store: a folder, or an S3 server behind a network that misbehaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from obstore.store import S3Store

from tests.servers.faults import Faults
from tests.servers.proxy import FaultyProxy
from tests.servers.stores import S3Server

STORMS: Mapping[str, Faults] = {
    "latency": Faults(latency_ms=40),
    "503s": Faults(refuse=0.1, burst=4),
    "resets": Faults(reset=0.2),
    "hangs": Faults(hang=0.02),
    "failed replies": Faults(fail_reply=0.2),
    "lost replies": Faults(lose_reply=0.2),
    "hung replies": Faults(hang_reply=0.02),
    "silence": Faults(hang=1),
    "outage": Faults(refuse=1),
    "everything": Faults(
        latency_ms=20, refuse=0.05, reset=0.05, hang=0.005, fail_reply=0.05, lose_reply=0.05
    ),
}
"""A request that hangs is reset when its storm is over."""


@dataclass(frozen=True)
class Usage:
    """What a store takes."""

    objects: int
    size: int


class FolderPlace:
    """A folder on the local disk. Nothing is wrong with its store but its owners."""

    environment: Mapping[str, str] = {}
    direct: Mapping[str, str] = {}
    storms = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "place"
        self.url = str(self._folder / "store")

    async def usage(self) -> Usage:
        return await asyncio.to_thread(self._walk)

    def _walk(self) -> Usage:
        objects = size = 0
        for path in self._folder.rglob("*"):
            try:
                found = path.lstat()
            except FileNotFoundError:
                # Files come and go.
                continue
            if path.is_file():
                objects += 1
                size += found.st_size
        return Usage(objects, size)

    async def storm(self, name: str) -> None:
        raise NotImplementedError("a folder has no network")

    async def calm(self) -> None:
        return

    async def struck(self) -> int:
        return 0


class S3Place:
    """An S3 server on loopback; owners reach it through a proxy, the examiner directly."""

    storms = True

    def __init__(self, server: S3Server, proxy: FaultyProxy) -> None:
        self._proxy = proxy
        name = f"soak-{random.getrandbits(64):016x}"
        self.url = f"{server.root}/{name}/store"
        self.environment = server.environment(proxy.endpoint)
        self.direct = server.environment(server.endpoint)
        self._below = S3Store(
            server.root.removeprefix("s3://"),
            prefix=name,
            endpoint=server.endpoint,
            access_key_id=self.direct["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.direct["AWS_SECRET_ACCESS_KEY"],
            region=self.direct["AWS_REGION"],
            client_options={"allow_http": True},
        )

    async def usage(self) -> Usage:
        objects = size = 0
        async for page in self._below.list():
            objects += len(page)
            size += sum(found["size"] for found in page)
        return Usage(objects, size)

    async def storm(self, name: str) -> None:
        await self._proxy.inject(STORMS[name])

    async def calm(self) -> None:
        await self._proxy.calm()

    async def struck(self) -> int:
        """How many requests faults have struck so far."""
        return (await self._proxy.counts()).of().struck


@asynccontextmanager
async def a_place(kind: str, folder: Path, seed: int) -> AsyncIterator[FolderPlace | S3Place]:
    """A new place of the kind ``folder`` or ``s3``."""
    if kind == "folder":
        yield FolderPlace(folder)
        return
    server = await asyncio.to_thread(S3Server)
    try:
        async with FaultyProxy(server.endpoint, seed=seed) as proxy:
            yield S3Place(server, proxy)
    finally:
        await asyncio.to_thread(server.close)
