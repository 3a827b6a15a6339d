"""A bad line between producers and the owner's socket: it loses replies, or says nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class Relay:
    """Passes on what producers send.

    Attributes:
        loses_replies: Drop the connection when the owner replies.
        is_silent: Take what is sent, and keep it.
    """

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self.loses_replies = False
        self.is_silent = False
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        back = asyncio.create_task(self._back(up_reader, writer))
        try:
            while data := await reader.read(2**20):
                self.requests += 1
                if not self.is_silent:
                    up_writer.write(data)
        finally:
            back.cancel()
            for end in (writer, up_writer):
                end.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**20):
            if self.loses_replies:
                writer.transport.abort()
                return
            writer.write(data)


@contextlib.asynccontextmanager
async def relayed(path: Path) -> AsyncIterator[Relay]:
    """Stand between the owner that listens on a path and those who connect from now on."""
    upstream = path.with_name("upstream")
    await asyncio.to_thread(path.rename, upstream)
    relay = Relay(upstream)
    server = await asyncio.start_unix_server(relay, path)
    try:
        yield relay
    finally:
        server.close()
        await asyncio.to_thread(path.unlink, missing_ok=True)
