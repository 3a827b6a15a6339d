"""The owner of a store, as other processes on its machine reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from taquba._line.address import socket_path
from taquba._line.client import CallFailed, Disconnected, NotCarriedOut, SocketClient, Told
from taquba._line.methods import CLOSED, GONE
from taquba._objects.location import StoreLocation

_SHUN_SECONDS: Final = 5.0
"""How long an owner that did not answer in time is not called again."""


class NoOwner(Disconnected):
    """Nobody on this machine listens; nothing was sent."""


class OwnerSocket:
    """Calls the current owner of a store; connects at the first call, and again after a loss.

    Args:
        location: Where the store is.
        on_push: Given what an owner says unasked; see `SocketClient`.
        on_end: Given a connection when it has ended.
        begin: What is said first on a connection; where it raises `Disconnected`, there is none.
        on_begun: Called when a connection is the current one.
    """

    def __init__(
        self,
        location: StoreLocation,
        on_push: Told | None = None,
        on_end: Callable[[SocketClient], None] | None = None,
        begin: Callable[[SocketClient], Awaitable[None]] | None = None,
        on_begun: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._on_begun = on_begun
        self._location = location
        self._on_push = on_push
        self._on_end = on_end
        self._path: Path | None = None
        self._client: SocketClient | None = None
        self._former: list[SocketClient] = []
        """Connections to owners that go, on which calls may still be answered."""
        self._connecting = asyncio.Lock()
        self._shun_until = 0.0

    async def call(
        self,
        seconds: float,
        method: str,
        *arguments: object,
        late: Callable[[object], None] | None = None,
    ) -> object:
        """Call a method; see `SocketClient.call`.

        Raises:
            NoOwner: There is no owner on this machine.
            NotCarriedOut: The owner has not carried it out, because it closes.
            Disconnected: The owner has gone, or does not answer.
            CallFailed: The owner refused.
            TooLarge: The arguments are too large; nothing was sent.
        """
        client = await self.connected()
        return await self.call_on(client, seconds, method, *arguments, late=late)

    async def call_on(
        self,
        client: SocketClient,
        seconds: float,
        method: str,
        *arguments: object,
        late: Callable[[object], None] | None = None,
    ) -> object:
        """`call` the owner at the other end of a connection."""
        try:
            return await client.call(seconds, method, *arguments, late=late)
        except Disconnected:
            if client.connected:
                self._shun_until = asyncio.get_running_loop().time() + _SHUN_SECONDS
                await client.close()
            raise
        except CallFailed as error:
            if error.kind not in (GONE, CLOSED):
                raise
            # Other calls under way still get their answers.
            client.leave()
            gone = NotCarriedOut if error.kind == CLOSED else Disconnected
            raise gone(str(error)) from error

    @property
    def current(self) -> SocketClient | None:
        """The connection to the current owner, if there is one."""
        client = self._client
        return client if client is not None and client.connected else None

    async def close(self) -> None:
        """Disconnect."""
        for client in (*self._former, self._client):
            if client is not None:
                await client.close()

    async def connected(self) -> SocketClient:
        """A connection to the current owner; raises `NoOwner`."""
        if self._client is not None and self._client.connected:
            return self._client
        async with self._connecting:
            if self._client is None or not self._client.connected:
                if asyncio.get_running_loop().time() < self._shun_until:
                    raise NoOwner("the owner does not answer")
                if self._client is not None:
                    self._former = [one for one in self._former if not one.ended]
                    self._former.append(self._client)
                self._client = None
                self._client = await self._begun(await self._connect())
                if self._on_begun is not None:
                    self._on_begun()
            return self._client

    async def _begun(self, client: SocketClient) -> SocketClient:
        """A connection on which was said what is said first."""
        if self._begin is None:
            return client
        try:
            await self._begin(client)
        except Disconnected as error:
            await client.close()
            raise NoOwner(str(error)) from error
        except BaseException:
            await client.close()
            raise
        return client

    async def _connect(self) -> SocketClient:
        try:
            if self._path is None:
                self._path = await asyncio.to_thread(socket_path, self._location)
            return await SocketClient.connect(self._path, self._on_push, self._on_end)
        except (OSError, TimeoutError) as error:
            raise NoOwner(f"no owner listens on this machine: {error}") from error
