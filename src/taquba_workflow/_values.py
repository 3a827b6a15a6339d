"""Checks of arguments. Each raises an error that names the value and the remedy."""

from __future__ import annotations

import re
from typing import Final

from taquba import (
    EnqueueRequest,
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    KvKey,
)
from taquba.extending.checks import key

RESERVED_HEADER: Final = "workflow."
RESERVED_KEY: Final = b"workflow/"

MAX_NAME_BYTES: Final = 1024
"""Longest signal key or memo key, in bytes of UTF-8."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


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


def run_id(value: str) -> None:
    if not isinstance(value, str) or not _RUN_ID.fullmatch(value):
        raise InvalidJobId(f"a run id must be 1 to 128 characters of [A-Za-z0-9_-]; got {value!r}")


def name(value: str, what: str) -> None:
    """A key that becomes part of a stored one."""
    key(value, what, MAX_NAME_BYTES)


def not_reserved(request: EnqueueRequest) -> None:
    """A job of the caller's own."""
    for header in request.headers or ():
        if header.startswith(RESERVED_HEADER):
            raise InvalidArgument(
                f"the header {header!r} is reserved, like all that start with "
                f"{RESERVED_HEADER!r}; choose another name"
            )
    for name in request.kv_writes or ():
        entry_key(name)


def entry_key(value: KvKey) -> None:
    start = value.encode(errors="replace") if isinstance(value, str) else value
    if isinstance(start, bytes) and start.startswith(RESERVED_KEY):
        raise InvalidArgument(
            f"the key {value!r} is reserved, like all that start with "
            f"{RESERVED_KEY.decode()!r}; choose another"
        )
