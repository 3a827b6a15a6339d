"""The fast way to fill a SlateDB write batch, and the plain way it must equal.

The generated binding copies bytes one by one in Python (about 50 us for a small row, 45 ms for
256 KiB). Here each argument is lowered with one library call (about 3 us a row). Everything that
depends on the binding's internals is in this module: it compares itself with the binding when it
is imported, and the plain way is used wherever anything differs, or when the environment variable
``TAQUBA_FAST_BINDING`` is ``0``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

from slatedb.uniffi import WriteBatch

from taquba._model.keys import Op

Fill = Callable[[WriteBatch, Sequence[Op]], None]

FAST_BINDING_VARIABLE: Final = "TAQUBA_FAST_BINDING"

_frame: Final = Struct(">i").pack
_PREFIX: Final = "uniffi_slatedb_uniffi_"
_CHECKSUMS: Final = {"writebatch_put": 48246, "writebatch_delete": 58549}
"""Signatures of the two methods in slatedb 0.17, as its binding computes them."""


def fill_plainly(batch: WriteBatch, ops: Sequence[Op]) -> None:
    """Fill `batch` through the binding's public methods."""
    for key, value in ops:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)


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


def _make_fast_fill() -> Fill | None:
    """Build the fast way, or return None where the binding is not the one it was written for."""
    if os.environ.get(FAST_BINDING_VARIABLE) == "0" or not _registers_carry_foreign_bytes():
        return None
    try:
        return _FastFill().fill
    except (AttributeError, ImportError, OSError, _BindingDiffers):
        return None


class _BindingDiffers(Exception):
    pass


class _FastFill:
    def __init__(self) -> None:
        from slatedb.uniffi._slatedb_uniffi import slatedb as generated

        binding: Any = generated
        buffer = binding._UniffiRustBuffer
        self._status = binding._UniffiRustCallStatus
        self._check = binding._uniffi_check_call_status
        self._error = binding._UniffiFfiConverterTypeError
        # PyDLL keeps the GIL: these calls take about a microsecond, less than giving it away.
        library = ctypes.PyDLL(binding._UniffiLib._name)
        for method, checksum in _CHECKSUMS.items():
            if getattr(library, f"{_PREFIX}checksum_method_{method}")() & 0xFFFF != checksum:
                raise _BindingDiffers(method)

        handle, status = ctypes.c_uint64, ctypes.c_void_p
        self._clone = getattr(library, f"{_PREFIX}fn_clone_writebatch")
        self._clone.argtypes, self._clone.restype = (handle, status), handle
        self._put = getattr(library, f"{_PREFIX}fn_method_writebatch_put")
        self._put.argtypes, self._put.restype = (handle, buffer, buffer, status), None
        self._delete = getattr(library, f"{_PREFIX}fn_method_writebatch_delete")
        self._delete.argtypes, self._delete.restype = (handle, buffer, status), None
        self._lower = library.ffi_slatedb_uniffi_rustbuffer_from_bytes
        self._lower.argtypes = (ctypes.c_int64, ctypes.c_char_p, status)
        self._lower.restype = buffer
        self._compare_with_binding(binding)

    def _compare_with_binding(self, binding: Any) -> None:
        """Lower a sample both ways; the bytes must be the same."""
        sample = bytes(range(256))
        expected = binding._UniffiFfiConverterBytes.lower(sample)
        status = self._status.default()
        framed = _frame(len(sample)) + sample
        found = self._lower(len(framed), framed, ctypes.addressof(status))
        same = status.code == 0 and found.data[: found.len] == expected.data[: expected.len]
        expected.free()
        found.free()
        if not same:
            raise _BindingDiffers("the form of lowered bytes")

    def fill(self, batch: WriteBatch, ops: Sequence[Op]) -> None:
        """Fill `batch`; each method call consumes one clone of the batch's handle."""
        handle: int = batch._handle
        status = self._status.default()
        at = ctypes.addressof(status)
        clone, put, delete, lower = self._clone, self._put, self._delete, self._lower
        for key, value in ops:
            size = len(key)
            row = lower(size + 4, _frame(size) + key, at)
            if value is None:
                delete(clone(handle, at), row, at)
            else:
                size = len(value)
                put(clone(handle, at), row, lower(size + 4, _frame(size) + value, at), at)
        # Rust writes the status only on failure, so the last failure is still in it.
        self._check(self._error, status)


_fast_fill = _make_fast_fill()

uses_fast_path: Final = _fast_fill is not None
fill: Final[Fill] = _fast_fill or fill_plainly
"""Append rows to a write batch, in order."""
