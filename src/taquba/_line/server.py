"""The owner's end of the socket. It knows nothing about the methods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from taquba._line.budget import Budget
from taquba._line.frames import MAX_BODY, Body, BrokenFrame, Frames, TooLarge, frame
from taquba._model.redaction import redact, without_secrets
from taquba._objects.forks import not_for_children

_log: Final = logging.getLogger(__name__)

Answer = Callable[[str, list[object]], Awaitable[object]]
"""Carries out a method and returns its result, or a `Large`; raises `Refused`."""

_CHUNK: Final = 256 * 1024
_BACKLOG: Final = 128
_MOST_UNDER_WAY: Final = 1024
_MOST_BYTES_UNDER_WAY: Final = 32 * 1024 * 1024
"""Unanswered requests that a connection may have; with more, the server stops reading from it."""

_MOST_CONNECTIONS: Final = 1000
_SHARE_OF_DESCRIPTORS: Final = 4
"""Connections use at most this fraction (one in ...) of the files that the process may open."""

_MOST_BYTES_OF_REQUESTS: Final = 64 * 1024 * 1024
_MOST_BYTES_OF_REPLIES: Final = 2 * MAX_BODY
"""Of all connections."""

_LEAST_COST: Final = 1024
"""The least size, in bytes, that a request counts as."""

_SLOWEST_BYTES_PER_SECOND: Final = 1024 * 1024
_PATIENCE_SECONDS: Final = 10.0
"""The server does not wait longer than this, plus the time for its bytes, for a frame."""

_AFTER_FAILURE_SECONDS: Final = 1.0


class Large(NamedTuple):
    """An answer that may be large, and is not loaded yet.

    Attributes:
        load: Loads it, when there is room for it.
    """

    load: Callable[[], Awaitable[object]]


class Refused(Exception):
    """A call that failed: the kind of failure, in a word, and a message."""


class SocketServer:
    """Listens on a path, until it is closed."""

    def __init__(
        self,
        path: Path,
        listening: _Listening,
        answer: Answer,
        on_end: Callable[[BaseException | None], None] | None,
    ) -> None:
        self._path = path
        self._listening = listening
        self._closing = False
        self._shared = _Shared(
            answer, Budget(_MOST_BYTES_OF_REQUESTS), Budget(_MOST_BYTES_OF_REPLIES)
        )
        self._most = most_connections()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._on_end = on_end
        self._accepting = asyncio.create_task(self._accept(), name="taquba-socket-server")
        self._accepting.add_done_callback(self._stopped)

    @classmethod
    async def listen(
        cls,
        path: Path,
        answer: Answer,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> SocketServer:
        """Accept connections; a process that listened on the path before gets no new ones.

        Args:
            path: Where to listen.
            answer: Carries out the calls.
            on_end: Told when no connection is accepted any more, and why: its error, or None where
                somebody has cancelled its task. Not after `close`.

        Raises:
            OSError: It cannot listen there.
        """
        listening = await asyncio.to_thread(_bind, path)
        not_for_children.add(listening.socket)
        return cls(path, listening, answer, on_end)

    def _stopped(self, accepting: asyncio.Task[None]) -> None:
        if not self._closing and self._on_end is not None:
            self._on_end(None if accepting.cancelled() else accepting.exception())

    async def close(self) -> None:
        """End all connections; unanswered requests may have been carried out."""
        self._closing = True
        await asyncio.to_thread(_unbind, self._path, self._listening.inode)
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        not_for_children.discard(self._listening.socket)
        self._listening.socket.close()
        for connection in self._connections.values():
            connection.end()
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
        reader = asyncio.StreamReader(limit=_CHUNK, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            await self._make_room()
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        except BaseException:
            accepted.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = _Connection(reader, writer, self._shared)
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


class _Shared(NamedTuple):
    """The state that the connections of an owner share."""

    answer: Answer
    requests: Budget
    replies: Budget


class _Connection:
    """One producer's connection. Whatever arrives can harm only this connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shared: _Shared
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._under_way: dict[asyncio.Task[None], int] = {}
        """Requests that were not answered, and their sizes."""
        self._room = asyncio.Event()
        self._frames = Frames()
        self._reserved = 0
        """Bytes that are reserved for the request that is arriving."""
        self._waited = 0.0
        """Seconds spent waiting for the rest of it."""
        self.used_at = asyncio.get_running_loop().time()

    @property
    def idle(self) -> bool:
        """Whether there is no request, and nothing would be lost."""
        return not self._under_way and not self._frames.begun

    async def serve(self) -> None:
        """Answer requests until the other end has gone, or sends something else."""
        own = self._writer.get_extra_info("socket")
        not_for_children.add(own)
        try:
            while data := await self._read():
                for body in self._frames.feed(data):
                    await self._begin(body)
                await self._reserve()
                # The server stops reading from a client that does not read its replies.
                await self._writer.drain()
                await self._wait_for_room()
        except BrokenFrame as error:
            _log.warning("a producer's connection was ended: %s", redact(str(error)))
        except OSError:
            # The other end has died; its requests continue, as if only the replies were lost.
            pass
        finally:
            self._shared.requests.give(self._reserved)
            not_for_children.discard(own)
            self.end()

    def end(self) -> None:
        """Drop the connection, and what it waits for."""
        for task in list(self._under_way):
            task.cancel()
        self._writer.transport.abort()

    async def _read(self) -> bytes:
        if not self._frames.begun:
            return await self._reader.read(_CHUNK)
        loop = asyncio.get_running_loop()
        seconds = _PATIENCE_SECONDS + self._frames.unfinished / _SLOWEST_BYTES_PER_SECOND
        before = loop.time()
        try:
            async with asyncio.timeout(seconds - self._waited):
                return await self._reader.read(_CHUNK)
        except TimeoutError:
            raise BrokenFrame(f"a frame that did not arrive within {seconds:.0f} s") from None
        finally:
            self._waited += loop.time() - before

    async def _reserve(self) -> None:
        """Wait for room for a large request, before more of it is read."""
        size = self._frames.unfinished
        if size > _CHUNK and not self._reserved:
            await self._shared.requests.take(size)
            self._reserved = size

    async def _begin(self, body: Body) -> None:
        match body.fields:
            case [int() as number, str() as method, *arguments]:
                pass
            case _:
                raise BrokenFrame("not a request")
        cost, self._reserved, self._waited = self._reserved, 0, 0.0
        if not cost:
            cost = max(body.size, _LEAST_COST)
            await self._shared.requests.take(cost)
        task = asyncio.create_task(self._reply(number, method, arguments))
        self._under_way[task] = body.size
        task.add_done_callback(partial(self._ended, cost))

    async def _reply(self, number: int, method: str, arguments: list[object]) -> None:
        try:
            answer = await self._shared.answer(method, arguments)
            if isinstance(answer, Large):
                async with self._shared.replies.holding(MAX_BODY):
                    await self._send(frame(number, True, await answer.load()))
                return
            reply = frame(number, True, answer)
        except Refused as error:
            reply = frame(number, False, error.args)
        except TooLarge as error:
            reply = frame(number, False, ["TooLarge", str(error)])
        except Exception as error:
            _log.error("a call of a producer failed", exc_info=without_secrets(error))
            reply = frame(number, False, [type(error).__name__, "see the owner's log"])
        await self._send(reply)

    async def _send(self, reply: bytes) -> None:
        """Send a reply; a large one counts until the other end has read it."""
        if self._writer.is_closing():
            return
        self._writer.write(reply)
        if len(reply) <= _CHUNK:
            return
        seconds = _PATIENCE_SECONDS + len(reply) / _SLOWEST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(seconds):
                await self._writer.drain()
        except TimeoutError:
            _log.warning("a producer's connection was ended: it does not read its replies")
            self.end()
        except OSError:
            # The other end has gone.
            pass

    def _ended(self, cost: int, task: asyncio.Task[None]) -> None:
        self._shared.requests.give(cost)
        del self._under_way[task]
        if task.cancelled():
            # Its caller would wait for a reply that does not come.
            self.end()
        self.used_at = asyncio.get_running_loop().time()
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
