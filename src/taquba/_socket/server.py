"""The owner's end of the socket. It knows nothing of what is called."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from taquba._model.redaction import redact, without_secrets
from taquba._socket.frames import Body, BrokenFrame, Frames, TooLarge, frame
from taquba._store.forks import not_for_children

_log: Final = logging.getLogger(__name__)

Answer = Callable[[str, list[object]], Awaitable[object]]
"""Carries out a method and returns what its reply holds; raises `Refused`."""

_CHUNK: Final = 256 * 1024
_BACKLOG: Final = 128
_MOST_UNDER_WAY: Final = 1024
_MOST_BYTES_UNDER_WAY: Final = 32 * 1024 * 1024
"""What a connection may have asked for that is not answered; it is not read from meanwhile."""


class Refused(Exception):
    """A call that failed: its kind, in a word, and what to say about it."""


class SocketServer:
    """Listens on a path, until it is closed."""

    def __init__(self, path: Path, listening: _Listening, answer: Answer) -> None:
        self._path = path
        self._listening = listening
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    @classmethod
    async def listen(cls, path: Path, answer: Answer) -> SocketServer:
        """Accept connections; whoever listened on the path before gets no new ones.

        Raises:
            OSError: It cannot listen there.
        """
        listening = await asyncio.to_thread(_bind, path)
        not_for_children.add(listening.socket)
        server = cls(path, listening, answer)
        server._server = await asyncio.start_unix_server(
            server._connected, sock=listening.socket, limit=_CHUNK
        )
        return server

    async def close(self) -> None:
        """End all connections; what was asked for and not answered may have been carried out."""
        await asyncio.to_thread(_unbind, self._path, self._listening.inode)
        not_for_children.discard(self._listening.socket)
        if self._server is not None:
            self._server.close()
        for connection in self._connections.values():
            connection.end()
        if self._connections:
            await asyncio.wait(set(self._connections))

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, self._answer)
        serving = asyncio.create_task(connection.serve(), name="taquba-connection")
        self._connections[serving] = connection
        serving.add_done_callback(self._connections.pop)


class _Connection:
    """One producer's connection. Whatever comes in, only this connection can suffer."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._under_way: dict[asyncio.Task[None], int] = {}
        """Requests that were not answered, and their sizes."""
        self._room = asyncio.Event()

    async def serve(self) -> None:
        """Answer requests until the other end has gone, or sends what is none."""
        frames = Frames()
        own = self._writer.get_extra_info("socket")
        not_for_children.add(own)
        try:
            while data := await self._reader.read(_CHUNK):
                for body in frames.feed(data):
                    self._begin(body)
                # Who does not take replies is not read from.
                await self._writer.drain()
                await self._wait_for_room()
        except BrokenFrame as error:
            _log.warning("a producer's connection was ended: %s", redact(str(error)))
        except OSError:
            # The other end has died; its requests go on, as if only the replies were lost.
            pass
        finally:
            not_for_children.discard(own)
            self.end()

    def end(self) -> None:
        """Drop the connection, and what it waits for."""
        for task in self._under_way:
            task.cancel()
        self._writer.transport.abort()

    def _begin(self, body: Body) -> None:
        match body.fields:
            case [int() as number, str() as method, *arguments]:
                task = asyncio.create_task(self._reply(number, method, arguments))
                self._under_way[task] = body.size
                task.add_done_callback(self._ended)
            case fields:
                raise BrokenFrame(f"not a request: {fields!r:.100}")

    async def _reply(self, number: int, method: str, arguments: list[object]) -> None:
        try:
            reply = frame(number, True, await self._answer(method, arguments))
        except Refused as error:
            reply = frame(number, False, error.args)
        except TooLarge as error:
            reply = frame(number, False, ["TooLarge", str(error)])
        except Exception as error:
            _log.error("a call of a producer failed", exc_info=without_secrets(error))
            reply = frame(number, False, [type(error).__name__, "see the owner's log"])
        if not self._writer.is_closing():
            self._writer.write(reply)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._room.set()

    async def _wait_for_room(self) -> None:
        while (
            len(self._under_way) > _MOST_UNDER_WAY
            or sum(self._under_way.values()) > _MOST_BYTES_UNDER_WAY
        ):
            self._room.clear()
            await self._room.wait()


class _Listening(NamedTuple):
    socket: socket.socket
    inode: int


def _bind(path: Path) -> _Listening:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Put in place when it is ready, and before that nobody can connect to it.
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
