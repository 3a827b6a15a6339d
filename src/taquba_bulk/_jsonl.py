"""Reading inputs from a file, or a stream, of JSON lines."""

from __future__ import annotations

import codecs
import os
import select
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast, overload

from pydantic import TypeAdapter, ValidationError

from taquba import InvalidArgument
from taquba.extending.typed import explain

T = TypeVar("T")

_BLOCK: Final = 1024 * 1024
_LOOK_MS: Final = 200
"""How often a reader that waits for a stream checks whether it must stop."""


class JsonLines(Generic[T]):
    """The lines of a file as values; see `read_jsonl`.

    A regular file may be iterated more than once. Anything else, such as a pipe, is read once.
    """

    def __init__(self, source: Path | int, kind: Any) -> None:
        """Internal: use `read_jsonl`."""
        self._source = source
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._spent = False

    def __iter__(self) -> Iterator[T]:
        return Lines(self)

    def __length_hint__(self) -> int:
        """The number of lines, including empty ones; unknown for a stream."""
        if not self._is_regular():
            unknown: Any = NotImplemented
            return cast("int", unknown)
        count = 0
        is_path = isinstance(self._source, Path)
        with open(self._source, "rb", closefd=is_path) as file:
            start = file.tell()
            last = b"\n"
            while block := file.read(_BLOCK):
                count += block.count(b"\n")
                last = block
            # The position is restored, because others may have the file open as well.
            file.seek(start)
        return count + (not last.endswith(b"\n"))

    def __str__(self) -> str:
        return "standard input" if isinstance(self._source, int) else str(self._source)

    def open(self) -> int:
        """A descriptor to read from, once for a stream."""
        if not self._is_regular():
            if self._spent:
                raise InvalidArgument(
                    f"{self} is a stream that was already read: read it once, or save it to a file"
                )
            self._spent = True
        if isinstance(self._source, int):
            return os.dup(self._source)
        # Opening a pipe to which nobody writes yet would wait without a way to stop it.
        return os.open(self._source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def parse(self, number: int, line: bytes) -> T:
        """The value of a line; raises `InvalidArgument`, which names it."""
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return self._adapter.validate_json(line)
        except ValidationError as error:
            raise InvalidArgument(f"{self}, line {number}: {explain(error)}") from None

    def _is_regular(self) -> bool:
        return stat.S_ISREG(os.stat(self._source).st_mode)


class Lines(Iterator[T]):
    """One reading of `JsonLines`: its methods block, except `stop`, which ends a wait."""

    def __init__(self, lines: JsonLines[T]) -> None:
        self._lines = lines
        self._file: int | None = None
        self._poll: select.poll | None = None
        self._count = 0
        self._rest: list[tuple[int, bytes]] = []
        """Complete lines that were read, by number, the next one last; without empty ones."""
        self._begun = b""
        """The beginning of a line that may not be complete."""
        self._ended = False
        self._stopped = threading.Event()

    def __next__(self) -> T:
        while not self._rest:
            if self._ended or not self._read(None):
                raise StopIteration
        return self._lines.parse(*self._rest.pop())

    def is_ready(self, seconds: float) -> bool:
        """Whether the next value, or the end, arrives within this time."""
        deadline = time.monotonic() + seconds
        while not self._rest and not self._ended:
            if not self._read(max(0, deadline - time.monotonic())):
                return False
        return True

    def stop(self) -> None:
        """End a waiting read, from any thread."""
        self._stopped.set()

    def close(self) -> None:
        """Close the file."""
        self._ended = True
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.close()

    def _read(self, seconds: float | None) -> bool:
        """Read a block; False if none has arrived in time, or if the reader was stopped."""
        if self._file is None:
            self._file = self._lines.open()
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLIN)
        if not self._wait(seconds):
            return False
        try:
            block = os.read(self._file, _BLOCK)
        except BlockingIOError:
            return True
        *whole, self._begun = (self._begun + block).split(b"\n")
        if not block:
            if self._begun:
                whole.append(self._begun)
            self.close()
        numbered = enumerate(whole, self._count + 1)
        self._rest = [(number, line) for number, line in numbered if line.strip()][::-1]
        self._count += len(whole)
        return True

    def _wait(self, seconds: float | None) -> bool:
        """Wait until there is something to read; False if that was not in time."""
        assert self._poll is not None
        if seconds is not None:
            return bool(self._poll.poll(seconds * 1000))
        while not self._stopped.is_set():
            if self._poll.poll(_LOOK_MS):
                return True
        return False


@overload
def read_jsonl(path: str | os.PathLike[str]) -> JsonLines[Any]: ...
@overload
def read_jsonl(path: str | os.PathLike[str], type: type[T]) -> JsonLines[T]: ...
def read_jsonl(path: str | os.PathLike[str], type: Any = Any) -> JsonLines[Any]:
    """Inputs from a file that has one JSON value on each line; empty lines are skipped.

    The file is read while the batch runs, so it may be larger than memory. A pipe is read as its
    lines arrive, and only once: a batch that is run again needs all of its inputs again.

    Args:
        path: The file, or a named pipe, or ``/dev/stdin``.
        type: The type of each value, as pydantic reads it.

    Returns:
        An iterable. Iterating it raises `taquba.InvalidArgument`, which names the line, for a line
        that does not fit.
    """
    return JsonLines(Path(path), type)
