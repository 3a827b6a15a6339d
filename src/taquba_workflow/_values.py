"""Checks of what callers pass in. Each raises an error that names the value and the remedy."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from taquba import (
    Duration,
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    KvKey,
)

RESERVED_HEADER: Final = "workflow."
RESERVED_KEY: Final = b"workflow/"

MAX_NAME_BYTES: Final = 1024
"""Longest signal key or memo key, in bytes of UTF-8."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LONGEST: Final = timedelta(days=100 * 365)


def instance(value: object, expected: type | tuple[type, ...], name: str) -> None:
    if not isinstance(value, expected):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InvalidArgumentType(f"{name} must be {wanted}, not {type(value).__name__}")


def method(value: object, method: str, name: str) -> None:
    if not callable(getattr(value, method, None)):
        raise InvalidArgumentType(
            f"{name} must be an object with `async def {method}`, not {value!r}"
        )


def content(value: bytes, name: str) -> None:
    if not isinstance(value, bytes):
        raise InvalidArgumentType(
            f"{name} must be bytes, not {type(value).__name__}: "
            "encode it first, for example json.dumps(value).encode()"
        )


def text(value: str, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentType(f"{name} must be a str, not {value!r}")


def run_id(value: str) -> None:
    if not isinstance(value, str) or not _RUN_ID.fullmatch(value):
        raise InvalidJobId(f"a run id is 1 to 128 characters of [A-Za-z0-9_-]; got {value!r}")


def name(value: str, what: str) -> None:
    """A key that becomes part of a stored one."""
    text(value, what)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} cannot be written as UTF-8: {value!r}") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise InvalidArgument(f"{what} has 1 to {MAX_NAME_BYTES} UTF-8 bytes; got {size}")


def duration(value: Duration, what: str) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise InvalidArgumentType(
            f"{what} must be seconds (int or float) or a timedelta, not {value!r}"
        )
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # Also refuses NaN, which compares with nothing.
    if not 0 <= seconds <= _LONGEST.total_seconds():
        raise InvalidArgument(
            f"{what} must be between 0 and a hundred years, in seconds; got {value!r}"
        )
    return timedelta(seconds=seconds)


def not_reserved(request: EnqueueRequest) -> None:
    """A job of the caller's own."""
    for header in request.headers or ():
        if header.startswith(RESERVED_HEADER):
            raise InvalidArgument(
                f"the header {header!r} is reserved, like all that start with "
                f"{RESERVED_HEADER!r}; choose another name"
            )
    for key in request.kv_writes or ():
        entry_key(key)


def entry_key(value: KvKey) -> None:
    start = value.encode(errors="replace") if isinstance(value, str) else value
    if isinstance(start, bytes) and start.startswith(RESERVED_KEY):
        raise InvalidArgument(
            f"the key {value!r} is reserved, like all that start with "
            f"{RESERVED_KEY.decode()!r}; choose another"
        )
