"""Values as MessagePack, the same bytes for equal values.

Types that are common in arguments and results, and that MessagePack does not have, are extensions:
their values come back with their type, their zone and all their digits. For any other value there
are two ways: `pack_exact` refuses it, and `pack` turns it into plain data.
"""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import Any, Final, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
from pydantic_core import SchemaSerializer, TzInfo, core_schema, to_jsonable_python

from taquba._model.same import difference, parts_of

_TUPLE: Final = 1
_SET: Final = 2
_FROZENSET: Final = 3
_INT: Final = 4
_DATETIME: Final = 5
_DATE: Final = 6
_TIME: Final = 7
_TIMEDELTA: Final = 8
_DECIMAL: Final = 9
_UUID: Final = 10

_MOST_NESTED: Final = 32
"""How deep tuples, sets and the like may be nested: each level is a separate MessagePack, and
reading one takes 40 KiB of the thread's stack."""
_TOO_DEEP: Final = f"tuples or sets are nested more than {_MOST_NESTED} deep"

_NATIVE: Final = frozenset({type(None), bool, float, str, bytes, list, dict})
_MAY_HOLD_BYTES: Final = re.compile(rb"[\xc4-\xc6]")
"""The first byte of a value in MessagePack, wherever it occurs."""

_MICROSECOND: Final = timedelta(microseconds=1)
_BASES: Final = cast("tuple[Callable[[Any], object], ...]", (dict, tuple, set, frozenset))
_INFERRING: Final = SchemaSerializer(core_schema.any_schema())


class Foreign(TypeError):
    """A value would come back changed."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return f"a {type(self.value).__name__} would not come back as it was"


class _Packer:
    """Packs values.

    Args:
        foreign: Called with a value that has no form of its own; returns a replacement, or raises.
        depth: How deep extensions may be nested.
    """

    def __init__(self, foreign: Callable[[Any], object], depth: int = _MOST_NESTED) -> None:
        self._foreign = foreign
        self._inner = _Packer(foreign, depth - 1) if depth else None

    def pack(self, value: object) -> bytes:
        # strict: an instance of a subclass, such as an Enum member, is not treated as its base.
        packed: bytes = msgpack.packb(value, default=self._substitute, strict_types=True)
        return packed

    def _substitute(self, value: object) -> object:
        encode = _ENCODERS.get(type(value))
        if encode is not None:
            return encode(self._pack_inside, value)
        simpler = self._foreign(value)
        return simpler if type(simpler) in _NATIVE else self._substitute(simpler)

    def _pack_inside(self, value: object) -> bytes:
        """The content of an extension."""
        if self._inner is None:
            raise ValueError(_TOO_DEEP)
        return self._inner.pack(value)


# -- extensions ---------------------------------------------------------------------------------

_Pack = Callable[[object], bytes]


def _tuple(pack: _Pack, value: tuple[object, ...]) -> msgpack.ExtType:
    return msgpack.ExtType(_TUPLE, pack(list(value)))


def _set(pack: _Pack, value: set[object] | frozenset[object]) -> msgpack.ExtType:
    # Sets have no order, and a different one in each process.
    code = _SET if type(value) is set else _FROZENSET
    head: bytes = msgpack.Packer().pack_array_header(len(value))
    return msgpack.ExtType(code, head + b"".join(sorted(map(pack, value))))


def _int(pack: _Pack, value: int) -> msgpack.ExtType:
    return msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _datetime(pack: _Pack, value: datetime) -> msgpack.ExtType:
    wall = value.replace(tzinfo=None).isoformat()
    return msgpack.ExtType(_DATETIME, pack([wall, value.fold, _zone(value)]))


def _date(pack: _Pack, value: date) -> msgpack.ExtType:
    return msgpack.ExtType(_DATE, value.isoformat().encode())


def _time(pack: _Pack, value: time) -> msgpack.ExtType:
    wall = value.replace(tzinfo=None).isoformat()
    return msgpack.ExtType(_TIME, pack([wall, value.fold, _zone(value)]))


def _timedelta(pack: _Pack, value: timedelta) -> msgpack.ExtType:
    return msgpack.ExtType(_TIMEDELTA, pack([value.days, value.seconds, value.microseconds]))


def _decimal(pack: _Pack, value: Decimal) -> msgpack.ExtType:
    return msgpack.ExtType(_DECIMAL, str(value).encode())


def _uuid(pack: _Pack, value: UUID) -> msgpack.ExtType:
    return msgpack.ExtType(_UUID, value.bytes)


_ENCODERS: Final[dict[type, Callable[[_Pack, Any], msgpack.ExtType]]] = {
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    int: _int,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _uuid,
}


def _zone(value: datetime | time) -> int | str | None:
    """A zone by its name, or its offset from UTC in microseconds."""
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key:
        return zone.key
    if type(zone) in (timezone, TzInfo):
        return cast("timedelta", zone.utcoffset(None)) // _MICROSECOND
    raise Foreign(zone)


def _zone_of(stored: int | str | None) -> tzinfo | None:
    if isinstance(stored, str):
        return ZoneInfo(stored)
    return None if stored is None else timezone(stored * _MICROSECOND)


def _extension(depth: int, code: int, data: bytes) -> object:
    match code:
        case 1:
            return tuple(_items(data, depth))
        case 2:
            return set(_items(data, depth))
        case 3:
            return frozenset(_items(data, depth))
        case 4:
            return int.from_bytes(data, "big", signed=True)
        case 5:
            wall, fold, zone = _items(data, depth)
            return datetime.fromisoformat(wall).replace(fold=fold, tzinfo=_zone_of(zone))
        case 6:
            return date.fromisoformat(data.decode())
        case 7:
            wall, fold, zone = _items(data, depth)
            return time.fromisoformat(wall).replace(fold=fold, tzinfo=_zone_of(zone))
        case 8:
            days, seconds, microseconds = _items(data, depth)
            return timedelta(days, seconds, microseconds)
        case 9:
            return Decimal(data.decode())
        case 10:
            return UUID(bytes=data)
        case _:
            raise ValueError(f"extension type {code} is unknown")


_EXTENSIONS: Final = tuple(partial(_extension, depth) for depth in range(_MOST_NESTED + 1))
"""How extensions are read, by how many others they are in."""


def _items(data: bytes, depth: int) -> list[Any]:
    items: Any = _unpack(data, depth + 1)
    if not issubclass(type(items), list):
        raise ValueError("an extension holds no list")
    listed: list[Any] = items
    return listed


# -- packing ------------------------------------------------------------------------------------


def _refuse(value: object) -> object:
    raise Foreign(value)


def _as_plain_data(value: Any) -> object:
    """A value that has no form of its own, as plain data."""
    given: object = value
    if isinstance(given, Iterator):
        # It can be read only once.
        raise Foreign(value)
    if isinstance(given, Enum):
        return value.value
    if isinstance(given, deque):
        return list(value)
    if isinstance(given, bytearray | memoryview):
        return bytes(value)
    for base in _BASES:
        if base in type(given).__mro__:
            return base(value)
    # Models become dicts here, whose sets are still sets, and in any order.
    inferred: object = _INFERRING.to_python(value)
    return to_jsonable_python(value) if type(inferred) is type(given) else inferred


def _as_its_parts(value: Any) -> object:
    """All parts of an object, whether they are ever written or not."""
    if isinstance(value, type) or inspect.isroutine(value):
        name: str = value.__qualname__
        if "<" in name:
            # A class from inside a function: no other process has it.
            raise Foreign(value)
        return f"{value.__module__}.{name}"
    kind: type[Any] = type(cast("object", value))
    parts = None if issubclass(kind, Iterator) else parts_of(value)
    if parts is None:
        raise Foreign(value)
    contents: object = None
    if issubclass(kind, Mapping):
        contents = dict(value)
    elif issubclass(kind, list | tuple | deque | set | frozenset):
        contents = tuple(value)
    return [kind.__qualname__, contents, parts]


_exact: Final = _Packer(_refuse)
_lossy: Final = _Packer(_as_plain_data)
_thorough: Final = _Packer(_as_its_parts)


def pack(value: object) -> bytes:
    """A value as MessagePack; values without a form of their own become plain data."""
    return _lossy.pack(value)


def pack_plain(value: object) -> bytes:
    """A value that was validated as plain data; raises `Foreign` for a class of a user."""
    return _exact.pack(value)


def pack_exact(value: object) -> bytes:
    """Any value in a form that `unpack` reads unchanged; raises `Foreign` if there is none."""
    packed = pack_plain(value)
    if _MAY_HOLD_BYTES.search(packed):
        # msgpack treats any other holder of bytes as bytes.
        found = difference(value, unpack(packed))
        if found is not None:
            raise Foreign(found.before)
    return packed


def unpack(data: bytes) -> object:
    """Read packed bytes; raises `ValueError`."""
    return _unpack(data, 0)


def _unpack(data: bytes, depth: int) -> object:
    if depth > _MOST_NESTED:
        raise ValueError(_TOO_DEEP)
    try:
        return msgpack.unpackb(data, ext_hook=_EXTENSIONS[depth], strict_map_key=False)
    except (
        TypeError,
        LookupError,
        ArithmeticError,
        OSError,
        RecursionError,
        msgpack.StackError,
    ) as error:
        raise ValueError(f"it is not MessagePack that this version can read: {error}") from error


def fingerprint(value: object) -> bytes:
    """SHA-256 of a value; the order of a dict's items or of a set does not matter."""
    return sha256(pack(_ordered(value))).digest()


def digest(value: object) -> bytes:
    """SHA-256 of all parts of a value of any class; otherwise like `fingerprint`.

    Raises:
        TypeError: A part of it has no content, or can be read only once.
    """
    return sha256(_thorough.pack(_ordered(value))).digest()


def _ordered(value: Any) -> Any:
    """A value whose dicts are in a fixed order."""
    if isinstance(value, dict):
        items = cast("dict[object, object]", value)
        return {key: _ordered(items[key]) for key in sorted(items, key=pack)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in cast("list[object]", value)]
    return value
