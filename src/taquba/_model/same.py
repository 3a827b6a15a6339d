"""Whether a value came back as it was: with the same types and content, all the way down.

Equality does not tell. ``1 == True == 1.0``, a class may compare one of its attributes only or none
at all, and a time is equal to the same moment in another zone.
"""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
import math
from array import array
from collections import deque
from collections.abc import Collection, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, Final, NamedTuple, cast
from zoneinfo import ZoneInfo

from taquba._model.describing import shown

_COMPARED: Final = frozenset({type(None), bool, int, str, bytes, timedelta})
"""Types of which equal values are the same."""

_TOLD: Final = (int, float, Decimal, date, time, timedelta, tzinfo, Enum)
"""Types whose values errors may show. A text may be a secret."""

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
_CONTENT: Final = (Mapping, list, tuple, deque, set, frozenset)
"""Types that are compared by what they contain."""


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING: Final = _Missing()


class Difference(NamedTuple):
    """Where a value and what came back for it differ."""

    path: str
    before: object
    after: object

    def within(self, step: str) -> Difference:
        """The same, seen from what contains the two."""
        return self._replace(path=step + self.path)

    def __str__(self) -> str:
        before, after = _called(self.before), _called(self.after)
        if before == after and isinstance(self.before, _TOLD):
            before, after = shown(self.before), shown(self.after)
        return f"{before} comes back as {'another one' if before == after else after}"


def _called(value: object) -> str:
    return repr(value) if value is _MISSING else f"a {type(value).__name__}"


def difference(before: Any, after: Any) -> Difference | None:
    """The first difference between two values; None where they are the same."""
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
    if kind in _CONTAINERS:
        return _between_contents(before, after)
    return _between_contents(before, after) or _between_parts(before, after)


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
    """What two zones have in common that are the same."""
    if isinstance(zone, ZoneInfo):
        return type(zone), zone.key or id(zone)
    offset = None if zone is None else zone.utcoffset(None)
    # A fixed offset is one, whichever class it is of.
    return zone if offset is None else offset


# -- containers ---------------------------------------------------------------------------------


def _between_contents(before: Any, after: Any) -> Difference | None:
    kind = _class_of(before)
    if issubclass(kind, Mapping):
        return _between_mappings(before, after)
    if issubclass(kind, list | tuple | deque):
        return _between_sequences(before, after)
    if issubclass(kind, set | frozenset):
        return _between_sets(before, after)
    return None


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


# -- objects ------------------------------------------------------------------------------------


def _between_parts(before: Any, after: Any) -> Difference | None:
    if isinstance(before, type) or inspect.isroutine(before):
        return Difference("", before, after)
    kind = _class_of(before)
    parts, others = parts_of(before), parts_of(after)
    if parts is None or others is None:
        # A lock, a connection: it has no content, and no value is lost with it.
        return None
    for name in {**parts, **others}:
        found = difference(parts.get(name, _MISSING), others.get(name, _MISSING))
        if found is not None:
            # What pickle keeps of an object says nothing to whoever has given it.
            has_fields = dataclasses.is_dataclass(kind) or hasattr(kind, "__pydantic_fields__")
            return found.within(f".{name}") if has_fields else Difference("", before, after)
    return None


def _class_of(value: object) -> type[Any]:
    return type(value)


def parts_of(value: Any) -> dict[str, object] | None:
    """What an object is made of, by name; None where it cannot be taken apart."""
    kind = _class_of(value)
    if dataclasses.is_dataclass(kind):
        declared = [field.name for field in dataclasses.fields(kind)]
        fields = {name: getattr(value, name) for name in declared if hasattr(value, name)}
        return {**fields, **_attributes(value)}
    if hasattr(kind, "__pydantic_fields__"):
        # Not which of its fields were given: pydantic does not compare that either.
        names: Collection[str] = getattr(kind, "__pydantic_fields__")  # noqa: B009
        fields = {name: value.__dict__.get(name, _MISSING) for name in names}
        return {**fields, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    if issubclass(kind, _CONTENT):
        # What it contains is compared already.
        settings = {name: getattr(value, name, None) for name in ("default_factory", "maxlen")}
        return {**settings, **_attributes(value)}
    return _reduced(value)


def _attributes(value: Any) -> dict[str, object]:
    """An object's own attributes, without what it computes from the others when asked for it."""
    own: dict[str, object] = getattr(value, "__dict__", {})
    kind = _class_of(value)
    return {
        name: part
        for name, part in own.items()
        if not isinstance(inspect.getattr_static(kind, name, None), cached_property)
    }


def _reduced(value: Any) -> dict[str, object] | None:
    """What pickle would keep of an object."""
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
