"""Requests that try out an object store, on objects of their own that are removed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from obstore.exceptions import AlreadyExistsError, PreconditionError
from ulid import ULID

from taquba._objects.client import Client
from taquba._objects.location import StoreLocation
from taquba._objects.problems import Problem

if TYPE_CHECKING:
    # Exists for type checkers only.
    from obstore import UpdateVersion

T = TypeVar("T")
Action = Literal["write", "read", "list", "delete"]

PREFIX: Final = "taquba-probe-"
"""What the prefix of every probe begins with; the rest of it is unique."""


class Doubt(Problem):
    """What was seen may be one odd answer of a store that does what is needed: try once more."""


class Probe:
    """Objects under one prefix of their own, and how long the store took for each request.

    Every method raises `Problem` when the store fails, refuses, or does not answer in time.
    """

    def __init__(self, client: Client) -> None:
        self.prefix = f"{PREFIX}{ULID()}"
        self._client = client
        self._store = client.store
        self._seconds: dict[Action, list[float]] = {}
        self._versions: dict[str, UpdateVersion] = {}
        self._run = 0

    def start_anew(self) -> None:
        """From now on names mean other objects."""
        self._run += 1

    def round_trip_ms(self, action: Action) -> float | None:
        """Median over the requests of one kind so far."""
        seconds = self._seconds.get(action)
        return median(seconds) * 1000 if seconds else None

    async def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not exist yet; False when the store says that it does."""
        return await self._ask("write", partial(self._put, name, data, "create"))

    async def overwrite(self, name: str, data: bytes) -> None:
        await self._ask("write", partial(self._put, name, data, "overwrite"))

    async def update(self, name: str, data: bytes, version: UpdateVersion) -> bool:
        """Overwrite one version of an object; False if it is no longer the current one."""
        return await self._ask("write", partial(self._put, name, data, version))

    def version(self, name: str) -> UpdateVersion | None:
        """Names the version that was written last, for `update`; None where no answer told it."""
        return self._versions[self._named(name)] or None

    async def read(self, name: str) -> bytes | None:
        return await self._ask("read", partial(self._get, name))

    async def modified_at(self, name: str) -> datetime:
        """When an object was written, by the store's clock."""
        path = self._path(self._named(name))
        found = await self._client.ask("read", lambda: self._store.head_async(path))
        return found["last_modified"]

    async def names(self) -> set[str]:
        """The objects of this probe that a listing shows."""
        return await self._ask("list", self._list)

    async def delete(self, name: str) -> None:
        await self._remove(self._named(name))

    async def clean_up(self) -> None:
        """Remove what was written and not deleted, as far as the store lets us."""
        # All at once: where removals are refused, each is tried for some seconds.
        await asyncio.gather(*map(self._try_to_remove, list(self._versions)))

    async def _try_to_remove(self, name: str) -> None:
        with contextlib.suppress(Problem):
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        await self._ask("delete", partial(self._delete, name))
        self._versions.pop(name, None)

    def _named(self, name: str) -> str:
        return f"{self._run}-{name}"

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    async def _put(
        self, name: str, data: bytes, mode: Literal["create", "overwrite"] | UpdateVersion
    ) -> bool:
        name = self._named(name)
        # A request that fails may have been carried out all the same: there is something to remove.
        self._versions.setdefault(name, {})
        try:
            written = await self._store.put_async(self._path(name), data, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return False
        version: UpdateVersion = {"e_tag": written["e_tag"]}
        if written["version"] is not None:
            version["version"] = written["version"]
        self._versions[name] = version
        return True

    async def _get(self, name: str) -> bytes | None:
        try:
            found = await self._store.get_async(self._path(self._named(name)))
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None

    async def _list(self) -> set[str]:
        names = {path.rpartition("/")[2] for path in await self._client.names(self.prefix)}
        run = self._named("")
        return {name.removeprefix(run) for name in names if name.startswith(run)}

    async def _delete(self, name: str) -> None:
        # Twice: what is not found once may be there all the same, and would stay.
        for _ in range(2):
            with contextlib.suppress(FileNotFoundError):
                await self._store.delete_async(self._path(name))
                return

    async def _ask(self, action: Action, request: Callable[[], Awaitable[T]]) -> T:
        started = perf_counter()
        result = await self._client.ask(action, request)
        self._seconds.setdefault(action, []).append(perf_counter() - started)
        return result


@contextlib.asynccontextmanager
async def probing(location: StoreLocation) -> AsyncGenerator[Probe]:
    """A probe of a location, whose objects are gone afterwards whatever happened."""
    probe = Probe(await Client.connect(location))
    try:
        yield probe
    finally:
        # Also when the caller is cancelled.
        await asyncio.shield(asyncio.ensure_future(probe.clean_up()))
