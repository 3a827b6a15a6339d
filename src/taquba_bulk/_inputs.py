"""Inputs of a batch: read a chunk at a time, each an item with a key of its own."""

from __future__ import annotations

import asyncio
import operator
import re
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread

from taquba import InvalidArgument, InvalidArgumentType
from taquba.extending import was_cancelled
from taquba.extending.typed import Codec, Undecodable
from taquba_bulk._errors import DuplicateKey
from taquba_bulk._jsonl import Lines

In = TypeVar("In")

Inputs = Iterable[In] | AsyncIterable[In]

_PATIENCE_SECONDS: Final = 0.05
"""How long a chunk may take to fill, so that inputs of a slow source do not wait for later ones."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Item:
    """An input of a batch."""

    index: int
    key: str
    run_id: str
    payload: bytes


def check_inputs(inputs: object) -> None:
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, (Iterable, AsyncIterable)):
        raise InvalidArgumentType(
            f"inputs must be an iterable or async iterable, not {type(inputs).__name__}"
        )


async def expected(inputs: Inputs[In]) -> int | None:
    """How many there should be, if the iterable has a length."""
    count = await anyio.to_thread.run_sync(operator.length_hint, inputs, -1)
    return None if count < 0 else count


async def chunks(inputs: Inputs[In], size: int) -> AsyncGenerator[list[In]]:
    """The inputs, up to `size` at a time; read no further ahead than that.

    A plain iterable is read in a worker thread, because it may block.
    """
    if isinstance(inputs, AsyncIterable):
        pump = _Pump(inputs, size)
        try:
            while chunk := await pump.take():
                yield chunk
        finally:
            await pump.stop()
        return
    iterator = iter(inputs)
    try:
        while chunk := await anyio.to_thread.run_sync(
            _take, iterator, size, abandon_on_cancel=True
        ):
            yield chunk
    finally:
        if isinstance(iterator, Lines):
            # A thread that waits for a pipe would keep the program from ending.
            iterator.stop()


def _take(iterator: Iterator[In], size: int) -> list[In]:
    chunk: list[In] = []
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for value in iterator:
        chunk.append(value)
        left = deadline - time.monotonic()
        if len(chunk) == size or left < 0:
            break
        if isinstance(iterator, Lines) and not iterator.is_ready(left):
            break
    return chunk


class _Pump(Generic[In]):
    """Reads an async iterable ahead of its consumer."""

    def __init__(self, source: AsyncIterable[In], size: int) -> None:
        self._size = size
        self._send, self._receive = anyio.create_memory_object_stream[In](size)
        self._task = asyncio.create_task(self._pump(source), name="taquba-bulk-inputs")
        # Also where it is cancelled before it begins.
        self._task.add_done_callback(lambda _: self._send.close())

    async def _pump(self, source: AsyncIterable[In]) -> None:
        async for value in source:
            await self._send.send(value)

    async def take(self) -> list[In]:
        """The inputs that have arrived, at least one; empty at the end."""
        chunk: list[In] = []
        try:
            chunk.append(await self._receive.receive())
            while len(chunk) < self._size:
                chunk.append(self._receive.receive_nowait())
        except anyio.WouldBlock:
            pass
        except anyio.EndOfStream:
            if not chunk:
                await asyncio.wait([self._task])
                if self._task.cancelled():
                    raise was_cancelled(self._task) from None
                self._task.result()
        return chunk

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()
        self._receive.close()


class Keying(Generic[In]):
    """Makes items of inputs. All methods block, and may be called from any thread.

    Keys that were seen are kept in a temporary SQLite file, so they may need more space than memory
    has.

    Args:
        codec: The codec of the inputs.
        key: Makes the key of an input. By default it is made from the content, with a number from
            the second occurrence on.
    """

    def __init__(self, codec: Codec[In], key: Callable[[In], str] | None) -> None:
        self._codec = codec
        self._key = key
        self._next = 0
        self._turn = threading.Lock()
        """Held by each call: a thread continues when its caller is cancelled and closes this."""
        self._seen: sqlite3.Connection | None = None

    def items(self, inputs: Sequence[In]) -> list[Item]:
        """Return the items of the next inputs.

        Raises:
            DuplicateKey: The caller's function gives two inputs the same key.
            InvalidArgument: An input is not of the type that the pipeline takes.
        """
        with self._turn:
            if self._seen is None:
                self._seen = _open()
            with self._seen:
                return [self._item(self._seen, value) for value in inputs]

    def close(self) -> None:
        with self._turn:
            if self._seen is not None:
                self._seen.close()

    def _item(self, seen: sqlite3.Connection, value: In) -> Item:
        index = self._next
        self._next += 1
        try:
            accepted = self._codec.accept(value)
            payload = self._codec.pack(accepted)
        except Undecodable as error:
            raise InvalidArgument(f"input {index} (counted from 0): {error}") from None
        if self._key is None:
            digest = sha256(payload).digest()[:16]
            _, times = _see(seen, digest, index)
            key = digest.hex() if times == 1 else f"{digest.hex()}-{times}"
            return Item(index, key, key, payload)
        # A value that can be read only once has been read.
        key = self._key(accepted if isinstance(value, Iterator) else value)
        _check_key(key, index)
        first, times = _see(seen, sha256(key.encode()).digest()[:16], index)
        if times > 1:
            raise DuplicateKey(key, first, index)
        return Item(index, key, run_id_of(key), payload)


def run_id_of(key: str) -> str:
    """The id of the run of an item: its key, if that is a valid id."""
    if _RUN_ID.fullmatch(key):
        return key
    return f"sha256-{sha256(key.encode()).hexdigest()}"


def _check_key(key: str, index: int) -> None:
    if not isinstance(key, str):
        raise InvalidArgumentType(f"key= must return a str, not {key!r} (for input {index})")
    if not key:
        raise InvalidArgument(f"key= returned an empty key for input {index}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"the key {key!r} of input {index} cannot be written as UTF-8"
        ) from None


def _open() -> sqlite3.Connection:
    # The empty name makes a file that SQLite deletes itself.
    seen = sqlite3.connect("", check_same_thread=False)
    # Nothing in it is needed after a crash.
    seen.execute("PRAGMA journal_mode = MEMORY")
    seen.execute(
        "CREATE TABLE seen (key BLOB PRIMARY KEY, first INTEGER, times INTEGER) WITHOUT ROWID"
    )
    return seen


def _see(seen: sqlite3.Connection, key: bytes, index: int) -> tuple[int, int]:
    """Where a key occurred first, and how often it has occurred so far."""
    row: tuple[int, int] | None = seen.execute(
        "SELECT first, times FROM seen WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        seen.execute("INSERT INTO seen VALUES (?, ?, 1)", (key, index))
        return index, 1
    first, times = row
    seen.execute("UPDATE seen SET times = ? WHERE key = ?", (times + 1, key))
    return first, times + 1
