"""Checks of arguments. Each raises an error that names the value and the remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from taquba._model.clock import to_ms
from taquba._model.describing import bounded
from taquba._model.errors import (
    InvalidArgument,
    InvalidArgumentType,
    InvalidJobId,
    InvalidQueueName,
    KvValueTooLarge,
)

Duration = float | int | timedelta
"""Seconds as a number, or a `timedelta`."""

KvKey = str | bytes
"""A caller-owned key; a `str` means its UTF-8 bytes."""

MAX_KV_VALUE_SIZE: Final = 256 * 1024
"""Largest caller-owned value, in bytes."""

MAX_KV_KEY_SIZE: Final = 4096
"""Longest caller-owned key, in bytes."""

MAX_HEADERS: Final = 128
"""Most headers of a job."""

MAX_HEADERS_SIZE: Final = 64 * 1024
"""Most UTF-8 bytes of a job's headers, names and values."""

MAX_PRIORITY: Final = 2**32 - 1
MAX_QUEUE_NAME_BYTES: Final = 255
MAX_DEDUP_KEY_BYTES: Final = 1024
MAX_DURATION_MS: Final = 100 * 365 * 24 * 3600 * 1000
"""A hundred years: longer durations are considered mistakes (milliseconds for seconds)."""

LAST_MOMENT_MS: Final = to_ms(datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC))
"""The last millisecond that `datetime` can hold: rounding must not go beyond it."""

_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def duration_ms(
    value: Duration, name: str, *, minimum: int = 0, maximum: int = MAX_DURATION_MS
) -> int:
    """A duration in whole milliseconds, rounded up so that a positive one never becomes zero."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentType(
            f"{name} must be seconds (int or float) or a timedelta, not {value!r}"
        )
    else:
        seconds = value
    # Also refuses NaN, which compares with nothing.
    if not 0 <= seconds <= maximum // 1000:
        longest = "a hundred years" if maximum == MAX_DURATION_MS else f"{maximum // 1000}"
        raise InvalidArgument(f"{name} must be between 0 and {longest}, in seconds; got {value!r}")
    # Rounded first, so that 4.03 s is not 4031 ms.
    ms = math.ceil(round(seconds * 1000, 6)) or int(seconds > 0)
    if ms < minimum:
        raise InvalidArgument(f"{name} must be at least {minimum / 1000:g} s; got {value!r}")
    return ms


def optional_duration_ms(value: Duration | None, name: str, *, minimum: int = 0) -> int | None:
    return None if value is None else duration_ms(value, name, minimum=minimum)


def moment_ms(value: datetime, name: str) -> int:
    if not isinstance(value, datetime):
        raise InvalidArgumentType(f"{name} must be a timezone-aware datetime, not {value!r}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgument(
            f"{name} must be timezone-aware; {value!r} is naive: "
            "add a zone, for example datetime.now(UTC)"
        )
    ms = to_ms(value)
    if ms < 0:
        raise InvalidArgument(f"{name} lies before 1970: {value!r}")
    return min(ms, LAST_MOMENT_MS)


def integer(value: int, name: str, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentType(f"{name} must be an int, not {value!r}")
    if not minimum <= value <= maximum:
        raise InvalidArgument(f"{name} must be between {minimum} and {maximum}; got {value}")
    return value


def text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentType(f"{name} must be a str, not {value!r}")
    return value


def utf8(value: str, name: str) -> bytes:
    """The bytes of a text that will be stored."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{name} cannot be written as UTF-8: {value!r}") from None


def error_text(value: str, name: str) -> str:
    """A text that explains a failure: valid UTF-8 by escapes, and shortened if it is long."""
    return bounded(text(value, name))


_known_queue_names: set[str] = set()
_KNOWN_QUEUE_NAMES_LIMIT: Final = 10_000


def queue_name(value: str) -> str:
    if type(value) is str and value in _known_queue_names:
        return value
    text(value, "a queue name")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidQueueName(f"a queue name must be valid UTF-8, unlike {value!r}") from None
    if not 1 <= size <= MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(
            f"a queue name must have 1 to {MAX_QUEUE_NAME_BYTES} UTF-8 bytes; got {value!r}"
        )
    if _CONTROL.search(value):
        raise InvalidQueueName(f"a queue name must not have control characters; got {value!r}")
    if len(_known_queue_names) < _KNOWN_QUEUE_NAMES_LIMIT:
        _known_queue_names.add(value)
    return value


def job_id(value: str) -> str:
    if not isinstance(value, str) or not _JOB_ID.fullmatch(value):
        raise InvalidJobId(f"a job id must be 1 to 128 characters of [A-Za-z0-9_-]; got {value!r}")
    return value


def key(value: str, name: str, most: int) -> str:
    """A text that becomes part of a stored key, of 1 to `most` UTF-8 bytes."""
    size = len(utf8(text(value, name), name))
    if not 1 <= size <= most:
        raise InvalidArgument(f"{name} must have 1 to {most} UTF-8 bytes; got {size}")
    return value


def dedup_key(value: str, name: str = "dedup_key") -> str:
    return key(value, name, MAX_DEDUP_KEY_BYTES)


def content(value: bytes, name: str = "payload") -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise InvalidArgumentType(
        f"{name} must be bytes, not {type(value).__name__}: "
        "encode it first, for example json.dumps(value).encode()"
    )


def wake_payload(value: bytes) -> bytes:
    payload = content(value)
    if len(payload) > MAX_KV_VALUE_SIZE:
        raise InvalidArgument(
            f"the message of a wake has {len(payload)} bytes; at most {MAX_KV_VALUE_SIZE} fit: "
            "store it as an object and send its name"
        )
    return payload


def headers(value: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidArgumentType(f"headers must map str to str, not {value!r}")
    if len(value) > MAX_HEADERS:
        raise InvalidArgument(f"a job may have at most {MAX_HEADERS} headers; got {len(value)}")
    size = 0
    for name, content in value.items():
        if not isinstance(name, str) or not isinstance(content, str):
            raise InvalidArgumentType(
                f"headers must map str to str; got {name!r:.100}: {content!r:.100}"
            )
        size += len(utf8(name, "the name of a header")) + len(utf8(content, "a header"))
    if size > MAX_HEADERS_SIZE:
        raise InvalidArgument(
            f"the headers of a job may have at most {MAX_HEADERS_SIZE} UTF-8 bytes; got {size}: "
            "put large content into the payload"
        )
    return dict(value)


def kv_key(value: KvKey) -> bytes:
    if isinstance(value, str):
        value = utf8(value, "a key")
    elif not isinstance(value, bytes):
        raise InvalidArgumentType(f"a key must be str or bytes, not {value!r}")
    if not 1 <= len(value) <= MAX_KV_KEY_SIZE:
        raise InvalidArgument(f"a key must have 1 to {MAX_KV_KEY_SIZE} bytes; got {len(value)}")
    return value


def kv_value(key: KvKey, value: bytes) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidArgumentType(
            f"the value of {key!r} must be bytes, not {type(value).__name__}: encode it first"
        )
    if len(value) > MAX_KV_VALUE_SIZE:
        raise KvValueTooLarge(
            f"the value of {key!r} has {len(value)} bytes; at most {MAX_KV_VALUE_SIZE} fit: "
            "store it as an object and keep its name here"
        )
    return value


def kv_writes(value: Mapping[KvKey, bytes]) -> dict[bytes, bytes]:
    if not isinstance(value, Mapping):
        raise InvalidArgumentType(f"kv_writes must map keys to bytes, not {value!r}")
    writes = {kv_key(key): kv_value(key, content) for key, content in value.items()}
    _refuse_twice(value, writes, "kv_writes")
    return writes


def kv_expected(value: Mapping[KvKey, bytes | None]) -> dict[bytes, bytes | None]:
    """Entries as a commit expects them; None stands for one that is absent."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentType(f"kv_expected must map keys to bytes or None, not {value!r}")
    expected = {
        kv_key(key): None if content is None else kv_value(key, content)
        for key, content in value.items()
    }
    _refuse_twice(value, expected, "kv_expected")
    return expected


def _refuse_twice(given: Mapping[KvKey, object], keys: Collection[bytes], what: str) -> None:
    if len(keys) < len(given):
        twice = next(key for key in given if isinstance(key, str) and key.encode() in given)
        raise InvalidArgument(
            f"{what} has the key {twice!r} twice, as str and as bytes, which are one entry: "
            "leave one of them out"
        )


def kv_changes(writes: Mapping[bytes, bytes], deletes: Collection[bytes]) -> None:
    """Refuse changes of one commit of which one would undo another."""
    for key in deletes:
        if key in writes:
            raise InvalidArgument(
                f"the key {key!r} is in kv_writes and in kv_deletes: leave it out of one of them"
            )


def instance(value: object, expected: type | tuple[type, ...], name: str) -> None:
    """Refuse an object of another class."""
    if not isinstance(value, expected):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        article = "an" if wanted[0] in "AEIOU" else "a"
        raise InvalidArgumentType(f"{name} must be {article} {wanted}, not {type(value).__name__}")
