"""A producer's end of the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from taquba._line.frames import DROP, FAREWELL, BrokenFrame, Frames, frame
from taquba._line.outbox import Outbox
from taquba._objects.forks import not_for_children

_CHUNK: Final = 256 * 1024
_CONNECT_SECONDS: Final = 2.0


class Disconnected(Exception):
    """The owner has gone, or does not answer: whether a call was carried out is unknown."""


class NotCarriedOut(Disconnected):
    """The owner closes, and has not carried out the call."""


class CallFailed(Exception):
    """The owner refused a call.

    Attributes:
        kind: The kind of failure, in a word.
        text: A message.
        state: What else is known of an error, as bytes; None if nothing is.
    """

    def __init__(self, kind: str, text: str, state: bytes | None = None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text
        self.state = state


Told = Callable[["SocketClient", str, list[object]], None]


class SocketClient:
    """One connection to an owner, for any number of calls at the same time.

    Args:
        reader: What the owner says.
        writer: What is said to it.
        on_push: Given what the owner says unasked: the connection, its kind, and the fields.
        on_end: Given the connection when it has ended.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_push: Told | None = None,
        on_end: Callable[[SocketClient], None] | None = None,
    ) -> None:
        self._writer = writer
        self._on_push = on_push
        self._on_end = on_end
        self._left = False
        """Whether no more calls are made: the owner has gone, or said farewell."""
        self._outbox = Outbox(writer)
        self._late: dict[int, Callable[[object], None]] = {}
        """Given the result of a call that nobody waits for any longer, should it come."""
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._own = writer.get_extra_info("socket")
        not_for_children.add(self._own)
        self._listening = asyncio.create_task(self._listen(reader), name="taquba-socket")
        self._listening.add_done_callback(self._ended)

    @classmethod
    async def connect(
        cls,
        path: Path,
        on_push: Told | None = None,
        on_end: Callable[[SocketClient], None] | None = None,
    ) -> SocketClient:
        """Connect to the owner that listens on a path.

        Raises:
            OSError: Nobody listens there.
            TimeoutError: Somebody listens and does not accept.
        """
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path, limit=_CHUNK)
        return cls(reader, writer, on_push, on_end)

    @property
    def ended(self) -> bool:
        """Whether no call gets an answer any longer."""
        return self._listening.done()

    @property
    def connected(self) -> bool:
        """False once a new call would get no answer."""
        return not self._listening.done() and not self._left

    async def call(
        self,
        seconds: float,
        method: str,
        *arguments: object,
        late: Callable[[object], None] | None = None,
    ) -> object:
        """Call a method and return its result. It goes on if its caller is cancelled.

        Args:
            seconds: How long the owner may take.
            method: The name of the method.
            arguments: Values that MessagePack can hold.
            late: For a call that hands out something, or waits for long: where the caller is
                cancelled, the owner is told that it may stop, and this is given the result if it
                comes nevertheless.

        Raises:
            TooLarge: The arguments are too large for a frame; nothing was sent.
            Disconnected: There is no reply, and there will be none.
            CallFailed: The owner refused.
        """
        number = next(self._numbers)
        request = frame(number, method, *arguments)
        if not self.connected:
            raise NotCarriedOut("the owner has gone")
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._outbox.add(request)
            if len(request) > _CHUNK:
                self._outbox.flush()
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                return await reply
        except asyncio.CancelledError:
            if late is not None:
                self._drop(number, reply, late)
            raise
        except TimeoutError:
            raise Disconnected(f"the owner did not answer within {seconds:g} s") from None
        except OSError as error:
            raise Disconnected(str(error)) from error
        finally:
            del self._waiting[number]
            if reply.done() and not reply.cancelled():
                # It may have failed while the request was still being sent: raise that error now.
                reply.exception()

    def leave(self) -> None:
        """Make no more calls; those under way get their answers."""
        self._left = True

    def say(self, kind: str, *fields: object) -> None:
        """Say what needs no reply."""
        if self.connected:
            self._outbox.add(frame(None, kind, *fields))

    def tell(self, method: str, *arguments: object) -> None:
        """Call a method without waiting; there is no reply that anybody reads."""
        if self.connected:
            self._outbox.add(frame(next(self._numbers), method, *arguments))

    def _drop(
        self, number: int, reply: asyncio.Future[object], late: Callable[[object], None]
    ) -> None:
        """Say that nobody waits for a reply."""
        answered = reply.done() and not reply.cancelled() and reply.exception() is None
        if answered:
            late(reply.result())
        elif self.connected:
            self._late[number] = late
            self._outbox.add(frame(next(self._numbers), DROP, number))

    async def close(self) -> None:
        """Disconnect."""
        self._outbox.flush()
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
        self._late.clear()
        if self._on_end is not None:
            self._on_end(self)

    def _take(self, fields: list[object]) -> None:
        match fields:
            case [int() as number, True, result]:
                late = self._late.pop(number, None)
                if (reply := self._waiting.get(number)) is not None and not reply.done():
                    reply.set_result(result)
                elif late is not None:
                    late(result)
            case [int() as number, False, [str() as kind, str() as text]]:
                self._fail(number, CallFailed(kind, text))
            case [int() as number, False, [str() as kind, bytes() as state, str() as text]]:
                self._fail(number, CallFailed(kind, text, state))
            case [None, str() as kind, *numbers] if kind == FAREWELL:
                for number in self._waiting.keys() - set(map(_number, numbers)):
                    if not self._waiting[number].done():
                        closes = NotCarriedOut("the owner closes")
                        self._waiting[number].set_exception(closes)
                self._left = True
                self._listening.cancel()
            case [None, str() as kind, *told]:
                if self._on_push is not None:
                    self._on_push(self, kind, told)
            case _:
                raise BrokenFrame("not a reply")

    def _fail(self, number: int, error: CallFailed) -> None:
        self._late.pop(number, None)
        if (reply := self._waiting.get(number)) is not None and not reply.done():
            reply.set_exception(error)


def _number(field: object) -> int:
    return field if isinstance(field, int) else -1
