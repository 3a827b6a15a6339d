"""Whether a value came back as it was: with the same types and content, all the way down.

Equality is not enough: ``1 == True == 1.0``, a class may compare only one of its attributes or none
at all, and a time is equal to the same moment in another zone.
"""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NamedTuple, cast
from zoneinfo import ZoneInfo

from taquba._model.describing import shown

_COMPARED: Final = frozenset({type(None), bool, int, str, bytes, timedelta})
"""Types whose equal values are the same."""

_TOLD: Final = (int, float, Decimal, date, time, timedelta, tzinfo, Enum)
"""Types whose values errors may show. A text may be a secret."""


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING: Final = _Missing()


class Difference(NamedTuple):
    """The difference between a value and the value that came back."""

    path: str
    before: object
    after: object

    def within(self, step: str) -> Difference:
        """The same difference, seen from the container of the two."""
        return self._replace(path=step + self.path)

    def __str__(self) -> str:
        before, after = _called(self.before), _called(self.after)
        if before == after and isinstance(self.before, _TOLD):
            before, after = shown(self.before), shown(self.after)
        return f"{before} comes back as {'another one' if before == after else after}"


def _called(value: object) -> str:
    return repr(value) if value is _MISSING else f"a {type(value).__name__}"


def difference(before: Any, after: Any) -> Difference | None:
    """The first difference between two values; None if they are the same."""
    if before is after:
        return None
    kind = _class_of(before)
    if kind is not type(after):
        if isinstance(before, tzinfo) and isinstance(after, tzinfo):
            return None if _zone(before) == _zone(after) else Difference("", before, after)
        return Difference("", before, after)
    if kind in _COMPARED:
        return None if before == after else Difference("", before, after)
    if kind is float:
        return None if _same_float(before, cast("float", after)) else Difference("", before, after)
    if kind is Decimal:
        return None if str(before) == str(after) else Difference("", before, after)
    if kind is datetime or kind is time:
        return _between_times(before, after)
    between = _CONTAINERS.get(kind, _between_objects)
    return between(before, after)


# -- numbers and times --------------------------------------------------------------------------


def _same_float(before: float, after: float) -> bool:
    if before != before:
        return after != after
    return before == after and math.copysign(1, before) == math.copysign(1, after)


def _between_times(before: Any, after: Any) -> Difference | None:
    same = (
        before.replace(tzinfo=None) == after.replace(tzinfo=None)
        and before.fold == after.fold
        and _zone(before.tzinfo) == _zone(after.tzinfo)
    )
    return None if same else Difference("", before, after)


def _zone(zone: tzinfo | None) -> object:
    """A value that equal zones have in common."""
    if isinstance(zone, ZoneInfo):
        return type(zone), zone.key or id(zone)
    offset = None if zone is None else zone.utcoffset(None)
    # A fixed offset is one, whichever class it is of.
    return zone if offset is None else offset


# -- containers ---------------------------------------------------------------------------------


def _between_mappings(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Difference | None:
    if list(before) != list(after):
        return Difference("", list(before), list(after)).within(" (its keys)")
    for key, other_key in zip(before, after, strict=True):
        found = difference(key, other_key) or difference(before[key], after[other_key])
        if found is not None:
            return found.within(f"[{shown(key)}]")
    return None


def _between_sequences(before: Sequence[Any], after: Sequence[Any]) -> Difference | None:
    if len(before) != len(after):
        return Difference("", before, after)
    if _are_plain(before, after):
        return None
    for place, (item, other) in enumerate(zip(before, after, strict=True)):
        found = difference(item, other)
        if found is not None:
            return found.within(f"[{place}]")
    return None


def _are_plain(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether two sequences are the same, and there is nothing in them to look into."""
    kinds = list(map(type, before))
    if kinds != list(map(type, after)):
        return False
    if set(kinds) == {float}:
        return array("d", before).tobytes() == array("d", after).tobytes()
    return _COMPARED.issuperset(kinds) and before == after


def _between_sets(before: Set[Any], after: Set[Any]) -> Difference | None:
    others = {other: other for other in after}
    for item in before:
        found = difference(item, others.pop(item, _MISSING))
        if found is not None:
            return found
    for other in others:
        return Difference("", _MISSING, other)
    return None


_CONTAINERS: Final[dict[type[Any], Callable[[Any, Any], Difference | None]]] = {
    dict: _between_mappings,
    list: _between_sequences,
    tuple: _between_sequences,
    set: _between_sets,
    frozenset: _between_sets,
}


# -- objects ------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """Information that is the same for all objects of a class."""

    between_contents: Callable[[Any, Any], Difference | None] | None
    """Compares what they contain, if they are containers."""
    fields: tuple[str, ...] | None
    """The fields that a model or a dataclass declares."""
    is_model: bool
    is_code: bool
    """Whether they are classes or functions, which are what they are."""
    computed: frozenset[str]
    """Attributes that are computed from others when they are read."""


_BY_ITEMS: Final[tuple[tuple[Any, Any], ...]] = (
    (Mapping, _between_mappings),
    ((list, tuple, deque), _between_sequences),
    ((set, frozenset), _between_sets),
)
_CODE: Final = (type, FunctionType, MethodType, BuiltinFunctionType)


@lru_cache(maxsize=1024)
def _shape_of(kind: Any) -> _Shape:
    is_dataclass = dataclasses.is_dataclass(cast("object", kind))
    is_model = hasattr(kind, "__pydantic_fields__") and not is_dataclass
    fields: tuple[str, ...] | None = None
    if is_model:
        fields = tuple(kind.__pydantic_fields__)
    elif is_dataclass:
        fields = tuple(field.name for field in dataclasses.fields(kind))
    return _Shape(
        next((between for bases, between in _BY_ITEMS if issubclass(kind, bases)), None),
        fields,
        is_model,
        issubclass(kind, _CODE),
        frozenset(
            name
            for name in dir(kind)
            if isinstance(inspect.getattr_static(kind, name, None), cached_property)
        ),
    )


def _between_objects(before: Any, after: Any) -> Difference | None:
    shape = _shape_of(_class_of(before))
    if shape.is_code:
        return Difference("", before, after)
    if shape.is_model:
        return _between_models(before, after, shape)
    found = None if shape.between_contents is None else shape.between_contents(before, after)
    if found is not None:
        return found
    parts, others = parts_of(before), parts_of(after)
    if parts is None or others is None:
        # A lock, a connection: it has no content, and no value is lost with it.
        return None
    found = _between_named(parts, others, {**parts, **others})
    if found is not None and shape.fields is None:
        # The state that pickle keeps of an object means nothing to its author.
        return Difference("", before, after)
    return found


def _between_models(before: Any, after: Any, shape: _Shape) -> Difference | None:
    """Not by which of their fields were given: pydantic does not compare that either."""
    found = _between_named(before.__dict__, after.__dict__, shape.fields or ())
    if found is not None:
        return found
    for own, others in (
        (before.__pydantic_extra__, after.__pydantic_extra__),
        (before.__pydantic_private__, after.__pydantic_private__),
    ):
        if own or others:
            found = _between_named(own or {}, others or {}, {**(own or {}), **(others or {})})
            if found is not None:
                return found
    return None


def _between_named(
    own: dict[str, object], others: dict[str, object], names: Iterable[str]
) -> Difference | None:
    for name in names:
        found = difference(own.get(name, _MISSING), others.get(name, _MISSING))
        if found is not None:
            return found.within(f".{name}")
    return None


def _class_of(value: object) -> Any:
    return type(value)


def parts_of(value: Any) -> dict[str, object] | None:
    """The parts of an object, by name; None if it cannot be taken apart."""
    shape = _shape_of(_class_of(value))
    if shape.is_model:
        own: dict[str, object] = value.__dict__
        parts = {name: own[name] for name in shape.fields or () if name in own}
        return {**parts, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    if shape.fields is not None:
        fields = {name: getattr(value, name) for name in shape.fields if hasattr(value, name)}
        return {**fields, **_attributes(value, shape)}
    if shape.between_contents is not None:
        # What it contains is compared already.
        settings = {name: getattr(value, name, None) for name in ("default_factory", "maxlen")}
        return {**settings, **_attributes(value, shape)}
    return _reduced(value)


def _attributes(value: Any, shape: _Shape) -> dict[str, object]:
    """An object's own attributes, except those that are computed from others."""
    own: dict[str, object] = getattr(value, "__dict__", {})
    return {name: part for name, part in own.items() if name not in shape.computed}


def _reduced(value: Any) -> dict[str, object] | None:
    """The state that pickle would keep of an object."""
    reduce = copyreg.dispatch_table.get(_class_of(value))
    try:
        found: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except TypeError:
        return None
    if isinstance(found, str):
        return {"": found}
    reduced: list[Any] = [*found, None, None, None]
    make, args, state, items, pairs = reduced[:5]
    parts: dict[str, object] = {"": (make, args, list(items or ()), list(pairs or ()))}
    states: tuple[Any, ...] = state if _class_of(state) is tuple else (state,)
    for more in states:
        parts |= more if _class_of(more) is dict else {"": (parts[""], more)}
    return parts
