"""The fast way to read and write rows through SlateDB's binding, and the plain way it must equal.

The generated binding copies the bytes it writes one by one in Python (about 50 us for a small row,
45 ms for 256 KiB), and takes rows that it read apart field by field (4 us a row). Here an argument
is lowered with one library call (2 us a row), and a batch of rows is copied once and then cut (1 us
a row). A read that SlateDB answers from memory is answered while it is asked; the binding still
goes through the event loop (37 us instead of 13), and does so once more than needed for an answer
that comes later: a commit, which is a write and a flush, costs it 130 us instead of 90.

Everything that depends on the binding's internals is in this module: it compares itself with the
binding when it is imported, and the plain way is used wherever anything differs, or when the
environment variable ``TAQUBA_FAST_BINDING`` is ``0``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from slatedb.uniffi import Db, DbIterator, DbReader, FlushOptions, FlushType, WriteBatch

from taquba._model.keys import Op

T = TypeVar("T")

Row = tuple[bytes, bytes]
"""A key and its value."""

Handle = Db | DbReader


class Wait(Protocol):
    """How an answer is awaited that is not there at once."""

    def __call__(self, answer: Awaitable[T], /) -> Awaitable[T]: ...


Fill = Callable[[WriteBatch, Sequence[Op]], None]
Get = Callable[[Handle, bytes, Wait], Awaitable[bytes | None]]
NextRows = Callable[[DbIterator, int, Wait], Awaitable[list[Row]]]
Write = Callable[[Db, WriteBatch], Awaitable[None]]
Flush = Callable[[Db], Awaitable[None]]

FAST_BINDING_VARIABLE: Final = "TAQUBA_FAST_BINDING"

_LENGTH: Final = Struct(">i")
_frame: Final = _LENGTH.pack
_VERSION_SIZE: Final = 16
"""A row's sequence number and creation time, two 64-bit numbers."""
_EXPIRY_SIZE: Final = 8
_PREFIX: Final = "uniffi_slatedb_uniffi_"
_CHECKSUMS: Final = {
    "writebatch_put": 48246,
    "writebatch_delete": 58549,
    "db_get": 39474,
    "dbreader_get": 53337,
    "dbiterator_next_batch": 61234,
    "db_write": 63711,
    "db_flush_with_options": 27835,
}
"""Signatures of the methods used here in slatedb 0.17, as its binding computes them."""

_WAL: Final = FlushOptions(flush_type=FlushType.WAL)


def fill_plainly(batch: WriteBatch, ops: Sequence[Op]) -> None:
    """Fill `batch` through the binding's public methods."""
    for key, value in ops:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)


async def get_plainly(handle: Handle, key: bytes, wait: Wait) -> bytes | None:
    """The value of `key` through the binding's public method."""
    return await wait(handle.get(key))


async def next_rows_plainly(rows: DbIterator, limit: int, wait: Wait) -> list[Row]:
    """Up to `limit` rows through the binding's public method; fewer mean that no more are left."""
    return [(row.key, row.value) for row in await wait(rows.next_batch(limit))]


async def write_plainly(db: Db, batch: WriteBatch) -> None:
    """Make what is in `batch` visible, through the binding's public method."""
    await db.write(batch)


async def flush_plainly(db: Db) -> None:
    """Flush the write-ahead log through the binding's public method."""
    await db.flush_with_options(_WAL)


def _registers_carry_foreign_bytes() -> bool:
    """Whether a struct of (int32, pointer) is passed like two integer arguments.

    True of the calling conventions of x86-64 System V and AArch64; not of Windows.
    """
    return (
        platform.machine().lower() in {"x86_64", "amd64", "aarch64", "arm64"}
        and sys.platform in {"linux", "darwin"}
        and sys.byteorder == "little"
        and sys.maxsize > 2**32
    )


def _make_fast_binding() -> _FastBinding | None:
    """Build the fast way, or return None where the binding is not the one it was written for."""
    if os.environ.get(FAST_BINDING_VARIABLE) == "0" or not _registers_carry_foreign_bytes():
        return None
    try:
        return _FastBinding()
    except (AttributeError, ImportError, OSError, _BindingDiffers):
        return None


class _BindingDiffers(Exception):
    pass


class _Answer:
    """What a poll of a Rust future comes to: within the poll, or later in a thread of the engine.

    Either the poller sees the code or the engine sees the waiter, whoever comes first.
    """

    __slots__ = ("code", "waiter")

    def __init__(self) -> None:
        self.code: int | None = None
        self.waiter: asyncio.Future[int] | None = None

    def arrive(self, code: int) -> None:
        self.code = code
        if self.waiter is not None:
            self.waiter.get_loop().call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        assert self.waiter is not None
        if not self.waiter.done():
            self.waiter.set_result(0)

    async def later(self, wait: Wait) -> int:
        self.waiter = asyncio.get_running_loop().create_future()
        if self.code is None:
            await wait(self.waiter)
        assert self.code is not None
        return self.code


def _patiently(answer: Awaitable[T]) -> Awaitable[T]:
    """Wait for as long as it takes."""
    return answer


class _FutureCalls(NamedTuple):
    """What the library does with a Rust future that has one form of result."""

    poll: Callable[..., None]
    complete: Callable[..., Any]
    free: Callable[[int], None]


class _FastBinding:
    def __init__(self) -> None:
        from slatedb.uniffi._slatedb_uniffi import slatedb as generated

        binding: Any = generated
        buffer = binding._UniffiRustBuffer
        # Made without arguments it is all zeros, which is a success.
        self._status = binding._UniffiRustCallStatus
        self._check = binding._uniffi_check_call_status
        self._error = binding._UniffiFfiConverterTypeError
        # PyDLL keeps the GIL: these calls take about a microsecond, less than giving it away.
        library = ctypes.PyDLL(binding._UniffiLib._name)
        for method, checksum in _CHECKSUMS.items():
            if getattr(library, f"{_PREFIX}checksum_method_{method}")() & 0xFFFF != checksum:
                raise _BindingDiffers(method)

        # Without argtypes an argument is not converted, which would be a third of a call's time:
        # every handle and status is passed as the C object that it is.
        self._clone = {
            kind: getattr(library, f"{_PREFIX}fn_clone_{kind.__name__.lower()}")
            for kind in (Db, DbIterator, DbReader, WriteBatch)
        }
        self._put = getattr(library, f"{_PREFIX}fn_method_writebatch_put")
        self._delete = getattr(library, f"{_PREFIX}fn_method_writebatch_delete")
        self._free_written = getattr(library, f"{_PREFIX}fn_free_writehandle")
        self._lower = library.ffi_slatedb_uniffi_rustbuffer_from_bytes
        self._release = library.ffi_slatedb_uniffi_rustbuffer_free
        for call in (
            *self._clone.values(),
            self._put,
            self._delete,
            self._free_written,
            self._release,
        ):
            call.restype = None
        self._lower.restype = buffer
        # These may wait for a thread of the engine that waits for the GIL: they give it away.
        method = f"{_PREFIX}fn_method_"
        self._get = {
            kind: getattr(binding._UniffiLib, f"{method}{kind.__name__.lower()}_get")
            for kind in (Db, DbReader)
        }
        self._next_batch = getattr(binding._UniffiLib, f"{method}dbiterator_next_batch")
        self._write = getattr(binding._UniffiLib, f"{method}db_write")
        self._flush = getattr(binding._UniffiLib, f"{method}db_flush_with_options")
        self._of_buffer, self._of_handle, self._of_nothing = (
            _FutureCalls(
                *(
                    getattr(binding._UniffiLib, f"ffi_slatedb_uniffi_rust_future_{call}_{result}")
                    for call in _FutureCalls._fields
                )
            )
            for result in ("rust_buffer", "u64", "void")
        )
        self._ready = binding._UNIFFI_RUST_FUTURE_POLL_READY
        self._numbers = count(1)
        self._answers: dict[int, _Answer] = {}
        # Kept here: the engine calls it for as long as the process lives.
        self._arrived = binding._UNIFFI_RUST_FUTURE_CONTINUATION_CALLBACK(self._arrive)
        self._wal = self._take(binding._UniffiFfiConverterTypeFlushOptions.lower(_WAL))
        self._compare_with_binding(binding)

    def _compare_with_binding(self, binding: Any) -> None:
        """Lower a sample both ways; the bytes must be the same."""
        batch = binding.WriteBatch()
        # An object that takes the clone over, and gives it back in the end.
        clone = binding.WriteBatch._uniffi_make_instance(batch._uniffi_clone_handle())
        if _inside(clone) != _inside(batch):
            raise _BindingDiffers("the handle of a clone")
        sample = bytes(range(256))
        expected = binding._UniffiFfiConverterBytes.lower(sample)
        status = self._status()
        framed = _frame(len(sample)) + sample
        found = self._lower(len(framed), framed, ctypes.byref(status))
        same = status.code == 0 and found.data[: found.len] == expected.data[: expected.len]
        expected.free()
        found.free()
        if not same:
            raise _BindingDiffers("the form of lowered bytes")
        row = binding.KeyValue(key=sample, value=b"", seq=1, create_ts=2, expire_ts=None)
        expiring = binding.KeyValue(key=b"k", value=sample, seq=1, create_ts=2, expire_ts=3)
        lowered = binding._UniffiFfiConverterSequenceTypeKeyValue.lower([row, expiring])
        lower_optional = binding._UniffiFfiConverterOptionalBytes.lower
        values = [self._take(lower_optional(value)) for value in (sample, b"", None)]
        try:
            if _cut_rows(self._take(lowered)) != [(sample, b""), (b"k", sample)]:
                raise _BindingDiffers("the form of rows")
            if [_cut_value(value) for value in values] != [sample, b"", None]:
                raise _BindingDiffers("the form of values")
        except (ValueError, IndexError, StructError) as error:
            raise _BindingDiffers("the form of what is read") from error

    def fill(self, batch: WriteBatch, ops: Sequence[Op]) -> None:
        """Fill `batch`; each method call consumes one clone of the batch's handle."""
        handle = ctypes.c_uint64(_inside(batch))
        status = self._status()
        at = ctypes.byref(status)
        clone, lower = self._clone[WriteBatch], self._lower
        put, delete = self._put, self._delete
        for key, value in ops:
            size = len(key)
            row = lower(size + 4, _frame(size) + key, at)
            if value is None:
                clone(handle, at)
                delete(handle, row, at)
            else:
                size = len(value)
                content = lower(size + 4, _frame(size) + value, at)
                clone(handle, at)
                put(handle, row, content, at)
        # Rust writes the status only on failure, so the last failure is still in it.
        self._check(self._error, status)

    async def get(self, handle: Handle, key: bytes, wait: Wait) -> bytes | None:
        """Read a value."""
        size = len(key)
        status = self._status()
        at = ctypes.byref(status)
        lowered = self._lower(size + 4, _frame(size) + key, at)
        future = self._get[type(handle)](self._cloned(handle, at), lowered)
        return _cut_value(self._take(await self._finish(future, self._of_buffer, wait)))

    async def next_rows(self, rows: DbIterator, limit: int, wait: Wait) -> list[Row]:
        """Read a batch of rows, lifted in one piece."""
        status = self._status()
        future = self._next_batch(self._cloned(rows, ctypes.byref(status)), limit)
        return _cut_rows(self._take(await self._finish(future, self._of_buffer, wait)))

    async def write(self, db: Db, batch: WriteBatch) -> None:
        """Make what is in `batch` visible."""
        status = self._status()
        at = ctypes.byref(status)
        future = self._write(self._cloned(db, at), self._cloned(batch, at))
        written = await self._finish(future, self._of_handle, _patiently)
        # A handle that would tell the commit's number.
        self._free_written(ctypes.c_uint64(written), at)

    async def flush(self, db: Db) -> None:
        """Flush the write-ahead log."""
        status = self._status()
        at = ctypes.byref(status)
        options = self._lower(len(self._wal), self._wal, at)
        future = self._flush(self._cloned(db, at), options)
        await self._finish(future, self._of_nothing, _patiently)

    def _cloned(self, owner: Db | DbIterator | DbReader | WriteBatch, at: Any) -> int:
        """One more handle of an object, for a call that consumes it: the same number again."""
        handle = _inside(owner)
        self._clone[type(owner)](ctypes.c_uint64(handle), at)
        return handle

    def _arrive(self, number: int, code: int) -> None:
        self._answers.pop(number).arrive(code)

    async def _finish(self, future: int, calls: _FutureCalls, wait: Wait) -> Any:
        """Poll a Rust future until it is ready; what it returned, lowered."""
        try:
            code = None
            while code != self._ready:
                answer = _Answer()
                number = next(self._numbers)
                self._answers[number] = answer
                calls.poll(future, self._arrived, number)
                code = answer.code
                if code is None:
                    code = await answer.later(wait)
            status = self._status()
            result = calls.complete(future, ctypes.byref(status))
            self._check(self._error, status)
            return result
        finally:
            calls.free(future)

    def _take(self, buffer: Any) -> bytes:
        """The bytes of a buffer of the binding, which is freed."""
        status = self._status()
        try:
            return ctypes.string_at(buffer.data, buffer.len)
        finally:
            self._release(buffer, ctypes.byref(status))


def _inside(owner: Any) -> int:
    """The handle that an object of the binding stands for."""
    handle: int = owner._handle
    return handle


def _length_at(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + _LENGTH.size], "big")


def _cut_value(data: bytes) -> bytes | None:
    """Take a lowered optional value apart: a flag byte, then its length and the value."""
    if data == b"\0":
        return None
    start = 1 + _LENGTH.size
    if data[0] != 1 or _length_at(data, 1) != len(data) - start:
        raise ValueError("a lowered value has another form")
    return data[start:]


def _cut_rows(data: bytes) -> list[Row]:
    """Take a lowered list of rows apart: a count, then rows of key, value and what we pass over."""
    count = _length_at(data, 0)
    position = _LENGTH.size
    rows: list[Row] = []
    for _ in range(count):
        start = position + _LENGTH.size
        position = start + _length_at(data, position)
        key = data[start:position]
        start = position + _LENGTH.size
        position = start + _length_at(data, position)
        rows.append((key, data[start:position]))
        position += _VERSION_SIZE
        # An optional expiry: a flag byte, then the time if it is set.
        position += 1 + _EXPIRY_SIZE * data[position]
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes are left over after {count} rows")
    return rows


_fast = _make_fast_binding()

uses_fast_path: Final = _fast is not None
fill: Final[Fill] = fill_plainly if _fast is None else _fast.fill
"""Append rows to a write batch, in order."""
get: Final[Get] = get_plainly if _fast is None else _fast.get
"""The value of a key; None where there is none."""
next_rows: Final[NextRows] = next_rows_plainly if _fast is None else _fast.next_rows
"""Up to so many rows of a scan; fewer mean that there are no more."""
write: Final[Write] = write_plainly if _fast is None else _fast.write
"""Make what is in a write batch visible."""
flush: Final[Flush] = flush_plainly if _fast is None else _fast.flush
"""Flush the write-ahead log."""
