"""Arguments and results of calls, as bytes.

A scalar is itself. Anything else is an array that begins with the name of what it is, so that a
list is not taken for a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import msgpack

from taquba._model import errors
from taquba._model.clock import from_ms
from taquba._model.codec import decode_job, encode_job
from taquba._model.describing import shown
from taquba._model.errors import PayloadDamaged, PayloadMissing, StoreError, TaqubaError
from taquba._model.options import EnqueueRequest, SettlementEffects
from taquba._model.records import (
    AttemptOutcome,
    CancelOutcome,
    EnqueueResult,
    InboxStats,
    JobAttempt,
    JobPage,
    JobRecord,
    JobStatus,
    KvEntry,
    KvPage,
    Member,
    NackOutcome,
    QueueStats,
    RejectedBatch,
    RunningJob,
    UnreadableRecord,
    WaitOutcome,
    WaitStatus,
    WakeOutcome,
    with_damage,
)
from taquba._model.unpacking import LONGEST_TEXT, UNREADABLE, read_whole
from taquba._model.validate import moment_ms

_MOST_VALUES: Final = 500_000
"""Each takes some hundred bytes of memory, however small it is as bytes."""

_DEEPEST: Final = 12

_LARGEST: Final = 2**63
_LONGEST_NUMBER: Final = 1000
"""Bytes."""

_pack = msgpack.Packer(use_bin_type=True, autoreset=True, strict_types=True).pack

_LIST: Final = "list"
_TUPLE: Final = "tuple"
_TEXT: Final = "text"
_MOMENT: Final = "moment"
_SPAN: Final = "span"
_NUMBER: Final = "number"
_STRANGE: Final = "strange"
_JOB: Final = "JobRecord"

_SCALARS: Final = frozenset((type(None), bool, int, float, str, bytes))

_REQUESTS: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind for kind in (EnqueueRequest, SettlementEffects)
}
"""What arguments may hold; each checks what it is made of."""

_RECORDS: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        EnqueueResult,
        InboxStats,
        JobAttempt,
        JobPage,
        KvEntry,
        KvPage,
        Member,
        NackOutcome,
        QueueStats,
        RejectedBatch,
        RunningJob,
        UnreadableRecord,
        WaitOutcome,
    )
}
_WORDS: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (AttemptOutcome, CancelOutcome, JobStatus, WaitStatus, WakeOutcome)
}


class Unreadable(Exception):
    """The bytes are not arguments, or not a result, of this version."""


def dump_arguments(arguments: Mapping[str, object]) -> bytes:
    """Arguments of a call, by name.

    A value of a type that no call takes is sent as what it is called and looks like: the owner
    refuses it as it refuses one of its own process.
    """
    parts: list[object] = []
    for name, value in arguments.items():
        parts += name, _plain(value)
    return bytes(_pack(parts))


def load_arguments(data: bytes) -> dict[str, object]:
    """Read arguments from another process, which may send anything; raises `Unreadable`."""
    parts = _read(data)
    if len(parts) % 2 or not all(type(name) is str for name in parts[::2]):
        raise Unreadable("they are not pairs of names and values")
    names = cast("list[str]", parts[::2])
    values = _checked(parts[1::2], _REQUESTS)
    return dict(zip(names, values, strict=True))


def dump_result(value: object) -> bytes:
    """The result of a call."""
    return bytes(_pack([_plain(value)]))


def load_result(data: bytes) -> object:
    """Read a result; raises `Unreadable`."""
    values = _checked(_read(data), _RECORDS)
    if len(values) != 1:
        raise Unreadable(f"{len(values)} results")
    return values[0]


# -- errors -------------------------------------------------------------------------------------


def dump_error(error: TaqubaError) -> list[object]:
    """An error of taquba's: its class, what it was made with, and what it says."""
    state = {name: value for name, value in vars(error).items() if type(value) in _SCALARS}
    arguments = [arg for arg in error.args if type(arg) in _SCALARS]
    whole = len(arguments) == len(error.args)
    return [type(error).__name__, dump_result([arguments if whole else None, state]), str(error)]


def load_error(kind: str, data: object, text: str) -> TaqubaError:
    """The error that the owner raised; a `StoreError` for one that this version does not know."""
    known: object = getattr(errors, kind, None)
    state = _state_of(data) if isinstance(data, bytes) else None
    if state is None or not isinstance(known, type) or not issubclass(known, TaqubaError):
        return StoreError(f"the owner refused: {kind}: {text}")
    error = known.__new__(known, *state.args)
    error.args = tuple(state.args)
    vars(error).update(state.attributes)
    return error


class _State(NamedTuple):
    """What makes an error the one that was raised."""

    args: list[Any]
    attributes: dict[str, Any]


def _state_of(data: bytes) -> _State | None:
    try:
        args, attributes = cast("tuple[Any, Any]", load_result(data))
    except (Unreadable, TaqubaError, ValueError, TypeError):
        return None
    known = isinstance(args, list) and isinstance(attributes, dict)
    return _State(cast("list[Any]", args), cast("dict[str, Any]", attributes)) if known else None


# -- values -------------------------------------------------------------------------------------


def _plain(value: object) -> object:
    """A value in a form that MessagePack can hold."""
    kind = type(value)
    if kind is str:
        return _text(cast("str", value))
    if kind is int:
        return _number(cast("int", value))
    if kind in _SCALARS:
        return value
    if (encode := _ENCODERS.get(kind)) is not None:
        return encode(value)
    if is_dataclass(kind) and kind.__name__ in (_RECORDS.keys() | _REQUESTS.keys()):
        held = [_plain(getattr(value, field.name)) for field in fields(kind)]
        return [kind.__name__, *held]
    if isinstance(value, JobRecord):
        return _job(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[Any, object]", value).items()}
    return _strange(value)


def _number(value: int) -> object:
    """A number, perhaps larger than MessagePack can hold."""
    if -_LARGEST <= value < _LARGEST:
        return value
    size = value.bit_length() // 8 + 1
    return (
        [_NUMBER, value.to_bytes(size, "big", signed=True)]
        if size < _LONGEST_NUMBER
        else _strange(value)
    )


def _strange(value: object) -> object:
    return [_STRANGE, type(value).__name__, shown(value)]


def _text(value: str) -> object:
    """Text, perhaps such as MessagePack cannot hold: whoever uses it refuses it by name."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        encoded = value.encode(errors="surrogatepass")
    else:
        if len(encoded) <= LONGEST_TEXT:
            return value
    return [_TEXT, encoded]


def _job(record: JobRecord) -> object:
    job = record._job  # pyright: ignore[reportPrivateUsage] - its fields are what is sent
    named = [_JOB, record.status.value, job.queue, job.id, encode_job(job)]
    try:
        # The row holds what was loaded.
        _ = record.payload
    except PayloadDamaged as damage:
        return [*named, damage.why]
    except PayloadMissing:
        pass
    return named


def _list(value: Any) -> object:
    return [_LIST, *map(_plain, value)]


def _tuple(value: Any) -> object:
    return [_TUPLE, *map(_plain, value)]


def _named(value: Any) -> object:
    return [type(value).__name__, *map(_plain, value)]


def _word(value: Any) -> object:
    return [type(value).__name__, value.value]


def _moment(value: datetime) -> object:
    if value.tzinfo is None:
        return _strange(value)
    return [_MOMENT, moment_ms(value, "the time")]


def _span(value: timedelta) -> object:
    return [_SPAN, value.days, value.seconds, value.microseconds]


_ENCODERS: Final[dict[type, Callable[[Any], object]]] = {
    list: _list,
    tuple: _tuple,
    datetime: _moment,
    timedelta: _span,
    EnqueueResult: _named,
    KvEntry: _named,
    RunningJob: _named,
    **dict.fromkeys(_WORDS.values(), _word),
}


class _Shape(NamedTuple):
    """How to make a record."""

    make: Callable[..., object]
    names: tuple[str, ...]


def _shape(kind: type[Any]) -> _Shape:
    if is_dataclass(kind):
        return _Shape(kind, tuple(field.name for field in fields(kind)))
    return _Shape(kind, kind._fields)


_SHAPES: Final = {name: _shape(kind) for name, kind in {**_REQUESTS, **_RECORDS}.items()}


def _read(data: bytes) -> list[object]:
    try:
        value = read_whole(data, _MOST_VALUES, _DEEPEST)
    except UNREADABLE as error:
        raise Unreadable(f"{error!s:.200}") from None
    if not isinstance(value, list):
        raise Unreadable("they are not a list")
    return cast("list[object]", value)


def _checked(values: list[object], known: Mapping[str, type[Any]]) -> list[object]:
    try:
        return _loaded(values, known)
    except TaqubaError:
        # A value that is refused, as where it was made.
        raise
    except (*UNREADABLE, RecursionError) as error:
        raise Unreadable(f"{error!s:.200}") from None


def _loaded(values: list[object], known: Mapping[str, type[Any]]) -> list[object]:
    return [_load(value, known) for value in values]


def _load(value: object, known: Mapping[str, type[Any]]) -> object:
    if isinstance(value, dict):
        items = cast("dict[Any, object]", value)
        return {key: _load(item, known) for key, item in items.items()}
    if not isinstance(value, list):
        return value
    tagged = cast("list[object]", value)
    match tagged:
        case ["list", *listed]:
            return _loaded(listed, known)
        case ["tuple", *listed]:
            return tuple(_loaded(listed, known))
        case ["text", bytes() as text]:
            return _read_text(text)
        case ["moment", int() as ms]:
            return from_ms(ms)
        case ["span", int() as days, int() as seconds, int() as microseconds]:
            return timedelta(days, seconds, microseconds)
        case ["number", bytes() as digits] if len(digits) < _LONGEST_NUMBER:
            return int.from_bytes(digits, "big", signed=True)
        case ["strange", str() as name, str() as shows]:
            return _stranger(name, shows)
        case ["JobRecord", str() as status, str() as queue, str() as job_id, bytes() as row, *more]:
            record = JobRecord(decode_job(queue, job_id, row), JobStatus(status))
            return _with_damage(record, more)
        case [str() as word, str() as member] if word in _WORDS:
            return _WORDS[word](member)
        case [str() as name, *held] if name in known:
            shape = _SHAPES[name]
            parts = _loaded(held, known)
            return shape.make(**dict(zip(shape.names, parts, strict=True)))
        case _:
            raise Unreadable(f"{tagged!r:.50} is nothing that is known")


def _with_damage(record: JobRecord, more: list[object]) -> JobRecord:
    """A record, and why its payload cannot be read, if that follows."""
    match more:
        case [str() as why]:
            damage = PayloadDamaged(record.id, record.payload_ref or "", why)
            return with_damage(record, damage)
        case _:
            return record


def _stranger(name: str, shows: str) -> object:
    """An object that is called, and looks, like the one that was given."""

    def look(_: object) -> str:
        return shows

    return type(name.replace("\0", "?"), (), {"__repr__": look})()


def _read_text(data: bytes) -> str:
    try:
        return data.decode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise Unreadable(str(error)) from None
