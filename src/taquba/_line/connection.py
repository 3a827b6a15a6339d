"""The owner's end of one connection. Whatever arrives can harm only this connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

from taquba._line.budget import Budget
from taquba._line.frames import DROP, FAREWELL, MAX_BODY, Body, BrokenFrame, Frames, TooLarge, frame
from taquba._line.outbox import Outbox
from taquba._model.redaction import redact, without_secrets
from taquba._objects.forks import not_for_children

_log: Final = logging.getLogger(__name__)

CHUNK: Final = 256 * 1024
_MOST_UNDER_WAY: Final = 1024
_MOST_WAITING: Final = 100_000
"""Requests that wait for what others do; each takes some kilobytes of memory."""
_MOST_BYTES_UNDER_WAY: Final = 32 * 1024 * 1024
"""Unanswered requests that a connection may have; with more, the server stops reading from it."""

_LAST_SECONDS: Final = 1.0

_LEAST_COST: Final = 1024
"""The least size, in bytes, that a request counts as."""

_SLOWEST_BYTES_PER_SECOND: Final = 1024 * 1024
_PATIENCE_SECONDS: Final = 10.0
"""The server does not wait longer than this, plus the time for its bytes, for a frame."""


class Large(NamedTuple):
    """An answer that may be large, and is not loaded yet.

    Attributes:
        load: Loads it, when there is room for it.
    """

    load: Callable[[], Awaitable[object]]


class Refused(Exception):
    """A call that failed: the kind of failure, in a word, what else is known of it, a message."""


Answer = Callable[["Connection", str, list[object]], Awaitable[object]]
"""Carries out a method and returns its result, or a `Large`; raises `Refused`."""


Waits = Callable[[str, list[object]], bool]
"""Whether a method waits for what others do, with arguments that take little room."""


Hear = Callable[["Connection", str, list[object]], None]
"""Takes what the other end says without a number: it waits for no reply."""


class Shared(NamedTuple):
    """The state that the connections of an owner share."""

    answer: Answer
    waits: Waits
    hear: Hear
    requests: Budget
    replies: Budget


class Connection:
    """One producer's connection. Whatever arrives can harm only this connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shared: Shared
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._under_way: dict[asyncio.Task[None], int] = {}
        """Requests that were not answered, and their sizes."""
        self._size_under_way = 0
        self._waiting: set[asyncio.Task[None]] = set()
        """Those of them that wait for what others do.

        They take no room from the others: what they wait for may be among those that come.
        """
        self._numbers: dict[int, asyncio.Task[None]] = {}
        self._dropped: set[asyncio.Task[None]] = set()
        """Requests that nobody waits for."""
        self._outbox = Outbox(writer)
        self._finishing = False
        self.holds = 0
        """How much is held on behalf of the other end, and lost when the connection ends."""
        self.on_end: list[Callable[[], None]] = []
        """Called when the connection has ended."""
        self._room = asyncio.Event()
        self._frames = Frames()
        self._reserved = 0
        """Bytes that are reserved for the request that is arriving."""
        self._waited = 0.0
        """Seconds spent waiting for the rest of it."""
        self.used_at = asyncio.get_running_loop().time()

    @property
    def ended(self) -> bool:
        """Whether nothing reaches the other end any longer."""
        return self._writer.is_closing()

    @property
    def idle(self) -> bool:
        """Whether there is no request, and nothing would be lost."""
        return not self._under_way and not self.holds and not self._frames.begun

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

    def push(self, kind: str, *fields: object) -> None:
        """Say something to the other end, which did not ask.

        Raises:
            TooLarge: It does not fit in a frame; nothing was said.
        """
        self._outbox.add(frame(None, kind, *fields))

    async def drained(self) -> None:
        """Wait until the other end has read most of what was said."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def finish(self) -> None:
        """Answer what was asked, say that nothing else is carried out, and end the connection.

        The other end may take a second.
        """
        self._finishing = True
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=_LAST_SECONDS)
        self._outbox.add(frame(None, FAREWELL, *self._numbers))
        self._outbox.flush()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LAST_SECONDS):
                self._writer.close()
                await self._writer.wait_closed()
        self.end()

    def end(self) -> None:
        """Drop the connection, and what it waits for."""
        for task in list(self._under_way):
            task.cancel()
        self._writer.transport.abort()
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback()

    async def _read(self) -> bytes:
        if not self._frames.begun:
            return await self._reader.read(CHUNK)
        loop = asyncio.get_running_loop()
        seconds = _PATIENCE_SECONDS + self._frames.unfinished / _SLOWEST_BYTES_PER_SECOND
        before = loop.time()
        try:
            async with asyncio.timeout(seconds - self._waited):
                return await self._reader.read(CHUNK)
        except TimeoutError:
            raise BrokenFrame(f"a frame that did not arrive within {seconds:.0f} s") from None
        finally:
            self._waited += loop.time() - before

    async def _reserve(self) -> None:
        """Wait for room for a large request, before more of it is read."""
        size = self._frames.unfinished
        if size > CHUNK and not self._reserved:
            await self._shared.requests.take(size)
            self._reserved = size

    async def _begin(self, body: Body) -> None:
        if self._finishing:
            # The other end is told.
            return
        match body.fields:
            case [int(), str() as method, int() as number] if method == DROP:
                self._drop(number)
                return
            case [None, str() as kind, *fields]:
                self._shared.hear(self, kind, fields)
                return
            case [int() as number, str() as method, *arguments]:
                pass
            case _:
                raise BrokenFrame("not a request")
        cost, self._reserved, self._waited = self._reserved, 0, 0.0
        if not cost:
            cost = max(body.size, _LEAST_COST)
            await self._shared.requests.take(cost)
        task = asyncio.create_task(self._reply(number, method, arguments))
        size = body.size
        if len(self._waiting) < _MOST_WAITING and self._shared.waits(method, arguments):
            self._waiting.add(task)
            self._shared.requests.give(cost)
            cost = size = 0
        self._under_way[task] = size
        self._size_under_way += size
        self._numbers[number] = task
        task.add_done_callback(partial(self._ended, cost, number))

    def _drop(self, number: int) -> None:
        """Stop a request that nobody waits for; it may have been answered already."""
        task = self._numbers.get(number)
        if task is not None and task not in self._dropped:
            self._dropped.add(task)
            task.cancel()

    async def _reply(self, number: int, method: str, arguments: list[object]) -> None:
        try:
            answer = await self._shared.answer(self, method, arguments)
            if isinstance(answer, Large):
                async with self._shared.replies.holding(MAX_BODY):
                    await self._send(frame(number, True, await answer.load()))
                return
            reply = frame(number, True, answer)
        except Refused as error:
            reply = frame(number, False, error.args)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task not in self._dropped:
                raise
            self._outbox.add(frame(number, False, ["Dropped", "nobody waited for it"]))
            raise
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
        self._outbox.add(reply)
        if len(reply) <= CHUNK:
            return
        self._outbox.flush()
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

    def _ended(self, cost: int, number: int, task: asyncio.Task[None]) -> None:
        self._shared.requests.give(cost)
        self._size_under_way -= self._under_way.pop(task)
        self._waiting.discard(task)
        if self._numbers.get(number) is task:
            del self._numbers[number]
        dropped = task in self._dropped
        self._dropped.discard(task)
        if task.cancelled() and not dropped:
            # Its caller would wait for a reply that does not come.
            self.end()
        self.used_at = asyncio.get_running_loop().time()
        self._room.set()

    async def _wait_for_room(self) -> None:
        while (
            len(self._under_way) - len(self._waiting) > _MOST_UNDER_WAY
            or self._size_under_way > _MOST_BYTES_UNDER_WAY
        ):
            self._room.clear()
            await self._room.wait()
