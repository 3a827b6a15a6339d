"""Where the records of ended items go."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import anyio.to_thread
import msgpack

from taquba import InvalidArgument, StoreError
from taquba.extending import seen_through
from taquba_bulk._codec import json_of
from taquba_bulk._records import BulkRecord


class Sink(Protocol):
    """Where a batch's records go, a group at a time.

    A position says how much of the output is valid. The batch keeps the newest one in its store,
    and resets the output to it when it continues after a crash: records behind it are dropped and
    written again.
    """

    async def create(self) -> bytes:
        """Begin an empty output; returns its position."""
        ...

    async def resume(self, position: bytes) -> bool:
        """Reset the output to a position; False if the output no longer exists."""
        ...

    async def write(self, records: Sequence[BulkRecord[Any]]) -> bytes:
        """Write records, durably; returns the position behind them."""
        ...

    async def close(self) -> None:
        """Close the output, whether it is complete or not."""
        ...


class NullSink:
    """Keeps no records beside the store; for `Bulk.stream`, and for pipelines that write."""

    async def create(self) -> bytes:
        """Do nothing."""
        return b""

    async def resume(self, position: bytes) -> bool:
        """Do nothing."""
        return True

    async def write(self, records: Sequence[BulkRecord[Any]]) -> bytes:
        """Do nothing."""
        return b""

    async def close(self) -> None:
        """Do nothing."""


class JsonlSink:
    """A file with one row of JSON for each item, in the order in which they end.

    A row has ``index`` (position of the input, from 0), ``key``, ``status`` (``succeeded``,
    ``failed`` or ``cancelled``), ``output`` or ``error``, and ``cost`` by metric. Each item has
    exactly one row, even after a crash; rows reach the disk in groups. In JSON, bytes are base64
    and a float that is not a number is null.

    Args:
        path: The file; its folder must exist. A file that the batch did not write is refused. If
            the file is missing when the batch continues, it is written anew from the store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: _RowFile | None = None

    async def create(self) -> bytes:
        """Create the file.

        Raises:
            InvalidArgument: A file with content exists, or the file cannot be created.
        """
        self._file, position = await anyio.to_thread.run_sync(_RowFile.create, self._path)
        return position

    async def resume(self, position: bytes) -> bool:
        """Truncate the file at a position.

        Raises:
            InvalidArgument: It is not the file that the batch wrote.
        """
        self._file = await anyio.to_thread.run_sync(_RowFile.resume, self._path, position)
        return self._file is not None

    async def write(self, records: Sequence[BulkRecord[Any]]) -> bytes:
        """Append rows, and fsync them.

        Raises:
            StoreError: They cannot be written, for example because the disk is full.
        """
        assert self._file is not None
        # A cancellation does not interrupt it: the thread continues in any case.
        return await seen_through(anyio.to_thread.run_sync(self._file.append, records))

    async def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            await anyio.to_thread.run_sync(file.close)


_CHECKED_BYTES: Final = 4096
_ROW_START: Final = b'{"index":'


class _Position(NamedTuple):
    """Where rows end, and a hash that identifies the file: of the last bytes before it.

    If there are none, the hash is of the file's number: rows that were written before their
    position was stored must be dropped, but no foreign text.
    """

    offset: int
    digest: bytes


class _RowFile:
    """An open file of rows. All methods block."""

    def __init__(self, path: Path, file: int, offset: int) -> None:
        self._path = path
        self._file = file
        self._offset = offset

    @classmethod
    def create(cls, path: Path) -> tuple[_RowFile, bytes]:
        file = _open(path, os.O_CREAT)
        assert file is not None
        if stat.S_ISFIFO(os.fstat(file).st_mode):
            os.close(file)
            raise InvalidArgument(
                f"{path} is a pipe, which no batch can continue after a crash: "
                "write to a file, or use Bulk.stream"
            )
        if os.fstat(file).st_size:
            os.close(file)
            raise _foreign(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        rows = cls(path, file, 0)
        return rows, rows._position()

    @classmethod
    def resume(cls, path: Path, position: bytes) -> _RowFile | None:
        file = _open(path, 0)
        if file is None:
            return None
        expected = _Position(*msgpack.unpackb(position))
        rows = cls(path, file, expected.offset)
        if not rows._is_at(position):
            os.close(file)
            if not expected.offset:
                raise _foreign(path)
            raise InvalidArgument(
                f"{path} is not as this batch left it ({expected.offset} bytes): put it back, "
                "remove it to have it written anew, or name another file"
            )
        if os.fstat(file).st_size > expected.offset:
            os.ftruncate(file, expected.offset)
        return rows

    def append(self, records: Sequence[BulkRecord[Any]]) -> bytes:
        rows = memoryview(b"".join(row_of(record) for record in records))
        try:
            while rows:
                written = os.pwrite(self._file, rows, self._offset)
                self._offset += written
                rows = rows[written:]
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return self._position()

    def close(self) -> None:
        os.close(self._file)

    def _is_at(self, position: bytes) -> bool:
        """Whether this is the file that was left at a position."""
        if not self._offset:
            begin = os.pread(self._file, len(_ROW_START), 0)
            if not begin:
                return True
            if not _ROW_START.startswith(begin):
                return False
        return self._position() == position

    def _position(self) -> bytes:
        if self._offset:
            start = max(0, self._offset - _CHECKED_BYTES)
            known_by = os.pread(self._file, self._offset - start, start)
        else:
            known_by = str(os.fstat(self._file).st_ino).encode()
        packed: bytes = msgpack.packb(_Position(self._offset, sha256(known_by).digest()[:16]))
        return packed


def _open(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not flags:
            return None
        raise InvalidArgument(f"cannot write {path}: {error.strerror}") from error


def _foreign(path: Path) -> InvalidArgument:
    return InvalidArgument(
        f"{path} has content that this batch did not write: remove it, or name another file"
    )


def row_of(record: BulkRecord[Any]) -> bytes:
    """A record as a line of JSON."""
    row: dict[str, object] = {
        "index": record.index,
        "key": record.key,
        "status": record.status.value,
    }
    if record.error is None:
        row["output"] = record.plain_output
    else:
        row["error"] = record.error
    row["cost"] = record.cost
    return json_of(row) + b"\n"
