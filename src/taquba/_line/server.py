"""The owner's end of the socket. It knows nothing about the methods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from taquba._line.budget import Budget
from taquba._line.connection import CHUNK, Answer, Connection, Hear, Shared, Waits
from taquba._line.frames import MAX_BODY
from taquba._objects.forks import not_for_children

_log: Final = logging.getLogger(__name__)

_BACKLOG: Final = 128
_MOST_CONNECTIONS: Final = 1000
_SHARE_OF_DESCRIPTORS: Final = 4
"""Connections use at most this fraction (one in ...) of the files that the process may open."""

_MOST_BYTES_OF_REQUESTS: Final = 64 * 1024 * 1024
_MOST_BYTES_OF_REPLIES: Final = 2 * MAX_BODY
"""Of all connections."""

_AFTER_FAILURE_SECONDS: Final = 1.0


class SocketServer:
    """Listens on a path, until it is closed."""

    def __init__(
        self,
        path: Path,
        listening: _Listening,
        answer: Answer,
        waits: Waits,
        hear: Hear,
        on_end: Callable[[BaseException | None], None] | None,
    ) -> None:
        self._path = path
        self._listening = listening
        self._closing = False
        self._shared = Shared(
            answer, waits, hear, Budget(_MOST_BYTES_OF_REQUESTS), Budget(_MOST_BYTES_OF_REPLIES)
        )
        self._most = most_connections()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._on_end = on_end
        self._accepting = asyncio.create_task(self._accept(), name="taquba-socket-server")
        self._accepting.add_done_callback(self._stopped)

    @classmethod
    async def listen(
        cls,
        path: Path,
        answer: Answer,
        on_end: Callable[[BaseException | None], None] | None = None,
        hear: Hear | None = None,
        waits: Waits | None = None,
    ) -> SocketServer:
        """Accept connections; a process that listened on the path before gets no new ones.

        Args:
            path: Where to listen.
            answer: Carries out the calls.
            on_end: Told when no connection is accepted any more, and why: its error, or None where
                somebody has cancelled its task. Not after `close`.
            hear: Takes what needs no reply.
            waits: Says which calls wait for what others do.

        Raises:
            OSError: It cannot listen there.
        """
        listening = await asyncio.to_thread(_bind, path)
        not_for_children.add(listening.socket)
        return cls(path, listening, answer, waits or _never, hear or _ignore, on_end)

    def _stopped(self, accepting: asyncio.Task[None]) -> None:
        if not self._closing and self._on_end is not None:
            self._on_end(None if accepting.cancelled() else accepting.exception())

    async def stop_listening(self) -> None:
        """Accept no more connections. Idempotent."""
        if self._closing:
            return
        self._closing = True
        await asyncio.to_thread(_unbind, self._path, self._listening.inode)
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        not_for_children.discard(self._listening.socket)
        self._listening.socket.close()

    async def close(self) -> None:
        """Send the answers that are there, and end all connections.

        Requests that are not answered by then may have been carried out.
        """
        await self.stop_listening()
        await asyncio.gather(*(one.finish() for one in self._connections.values()))
        if self._connections:
            await asyncio.wait(set(self._connections))

    async def _accept(self) -> None:
        """Accept one connection after the other, so that there are never more than allowed."""
        loop = asyncio.get_running_loop()
        told = False
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening.socket)
                await self._begin(accepted)
                told = False
            except OSError as error:
                # For example, the process has reached its limit of open files.
                if not told:
                    _log.warning("producers cannot connect, and use the inbox: %s", error.strerror)
                told = True
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)

    async def _begin(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            await self._make_room()
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        except BaseException:
            accepted.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = Connection(reader, writer, self._shared)
        serving = asyncio.create_task(connection.serve(), name="taquba-connection")
        self._connections[serving] = connection
        serving.add_done_callback(self._ended)

    def _ended(self, serving: asyncio.Task[None]) -> None:
        # One that was cancelled before it began has not closed anything.
        self._connections.pop(serving).end()

    async def _make_room(self) -> None:
        """Wait until one more is allowed; the one that was idle for longest is closed."""
        while len(self._connections) >= self._most:
            idle = [item for item in self._connections.items() if item[1].idle]
            if idle:
                serving, connection = min(idle, key=lambda item: item[1].used_at)
                connection.end()
                await asyncio.wait([serving])
                # Its descriptor is closed in the loop's next turn.
                await asyncio.sleep(0)
            else:
                await asyncio.wait(
                    set(self._connections),
                    timeout=_AFTER_FAILURE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )


def most_connections() -> int:
    """How many connections are allowed, by the current limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, soft // _SHARE_OF_DESCRIPTORS))


def _never(method: str, arguments: list[object]) -> bool:
    del method, arguments
    return False


def _ignore(connection: Connection, kind: str, fields: list[object]) -> None:
    del connection, kind, fields


class _Listening(NamedTuple):
    socket: socket.socket
    inode: int


def _bind(path: Path) -> _Listening:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # It is moved into place when it is ready; before that nobody can connect to it.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(3)}")
    try:
        listening.bind(str(unfinished))
        unfinished.chmod(0o600)
        listening.listen(_BACKLOG)
        inode = unfinished.stat().st_ino
        unfinished.rename(path)
    except BaseException:
        listening.close()
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    listening.setblocking(False)
    return _Listening(listening, inode)


def _unbind(path: Path, inode: int) -> None:
    """Remove the path, unless a successor listens there."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()
