"""A producer's end of the socket."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Final

from taquba._line.frames import BrokenFrame, Frames, frame
from taquba._objects.forks import not_for_children

_CHUNK: Final = 256 * 1024
_CONNECT_SECONDS: Final = 2.0


class Disconnected(Exception):
    """The owner has gone, or does not answer: whether a call was carried out is unknown."""


class CallFailed(Exception):
    """The owner refused a call.

    Attributes:
        kind: The kind of failure, in a word.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class SocketClient:
    """One connection to an owner, for any number of calls at the same time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._own = writer.get_extra_info("socket")
        not_for_children.add(self._own)
        self._listening = asyncio.create_task(self._listen(reader), name="taquba-socket")
        self._listening.add_done_callback(self._ended)

    @classmethod
    async def connect(cls, path: Path) -> SocketClient:
        """Connect to the owner that listens on a path.

        Raises:
            OSError: Nobody listens there.
            TimeoutError: Somebody listens and does not accept.
        """
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path, limit=_CHUNK)
        return cls(reader, writer)

    @property
    def connected(self) -> bool:
        """False once a call can no longer get an answer."""
        return not self._listening.done()

    async def call(self, seconds: float, method: str, *arguments: object) -> object:
        """Call a method and return its result.

        Args:
            seconds: How long the owner may take.
            method: The name of the method.
            arguments: Values that MessagePack can hold.

        Raises:
            TooLarge: The arguments are too large for a frame; nothing was sent.
            Disconnected: There is no reply, and there will be none.
            CallFailed: The owner refused.
        """
        number = next(self._numbers)
        request = frame(number, method, *arguments)
        if not self.connected:
            raise Disconnected("the owner has gone")
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._writer.write(request)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                return await reply
        except TimeoutError:
            raise Disconnected(f"the owner did not answer within {seconds:g} s") from None
        except OSError as error:
            raise Disconnected(str(error)) from error
        finally:
            del self._waiting[number]
            if reply.done() and not reply.cancelled():
                # It may have failed while the request was still being sent: raise that error now.
                reply.exception()

    async def close(self) -> None:
        """Disconnect."""
        self._listening.cancel()
        await asyncio.wait([self._listening])

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        try:
            while data := await reader.read(_CHUNK):
                for body in frames.feed(data):
                    self._take(body.fields)
        except (OSError, BrokenFrame):
            # Equivalent to the end of the connection: nothing intelligible will come.
            pass

    def _ended(self, listening: asyncio.Task[None]) -> None:
        """No reply will come; a task that is cancelled before it began does not clean up itself."""
        not_for_children.discard(self._own)
        self._writer.transport.abort()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(Disconnected("the owner has gone"))

    def _take(self, fields: list[object]) -> None:
        match fields:
            case [int() as number, True, result]:
                if (reply := self._waiting.get(number)) is not None and not reply.done():
                    reply.set_result(result)
            case [int() as number, False, [str() as kind, str() as text]]:
                if (reply := self._waiting.get(number)) is not None and not reply.done():
                    reply.set_exception(CallFailed(kind, text))
            case _:
                raise BrokenFrame("not a reply")
