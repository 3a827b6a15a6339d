"""Facts about the values of an annotation, from its pydantic schema."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from enum import IntEnum
from typing import Any, Final, cast, get_args, get_origin

from typing_extensions import is_typeddict

Schema = dict[str, Any]

_SCALARS: Final = frozenset(
    [
        *("none", "bool", "int", "float", "decimal", "str", "bytes", "uuid"),
        *("date", "time", "datetime", "timedelta"),
    ]
)
"""Types whose values the wire keeps as they are, and that reading again does not change."""

_INSTANCES: Final = frozenset({"model", "dataclass"})
"""Types whose instances are accepted as they are, with their contents."""

_OPAQUE: Final = frozenset({"metadata", "cls", "config", "function", "default", "serialization"})
"""Parts of a schema that are not schemas of values."""

_TABLES: Final = frozenset({"fields", "choices"})
"""Parts that may be schemas by name."""


class Nature(IntEnum):
    """Whether values of a schema come back as they were; a schema is like its worst part."""

    COMPARED = 0
    """It depends on the value: pydantic writes it, and it must be read again to find out."""
    ANY = 1
    """If the wire accepts it, which accepts only plain data."""
    PLAIN = 2
    """Always: the wire keeps it as it is."""


def nature(schema: Schema) -> Nature:
    """The nature of the values of a schema.

    A schema is plain if it has no classes of users, no code that changes values, and nothing that
    could be read as something else. A recursive schema is not plain, because its values may be
    nested too deep to be read.
    """
    if "serialization" in schema:
        return Nature.COMPARED
    match schema["type"]:
        case "any":
            return Nature.ANY
        case "literal":
            kinds = set(map(type, schema["expected"]))
            return _plain_if(kinds <= {str, int, type(None)} or kinds == {bool})
        case "list" | "set" | "frozenset":
            return nature(schema.get("items_schema", _ANY))
        case "dict":
            return min(
                nature(schema.get("keys_schema", _ANY)), nature(schema.get("values_schema", _ANY))
            )
        case "tuple":
            return min(map(nature, schema["items_schema"]), default=Nature.PLAIN)
        case "typed-dict":
            fields = schema["fields"].values()
            return min((nature(field["schema"]) for field in fields), default=Nature.PLAIN)
        case "nullable":
            return nature(schema["schema"])
        case "union":
            return _plain_if(_tells_members_apart(schema))
        case kind:
            return _plain_if(kind in _SCALARS)


_ANY: Final[Schema] = {"type": "any"}


def _plain_if(condition: bool) -> Nature:
    return Nature.PLAIN if condition else Nature.COMPARED


def _tells_members_apart(schema: Schema) -> bool:
    """Whether the type of a value says to which member of a union it belongs."""
    members = list(_schemas_in(schema["choices"]))
    kinds = {member["type"] for member in members}
    return (
        schema.get("mode", "smart") == "smart"
        and len(kinds) == len(members)
        and kinds <= _SCALARS
        and all(nature(member) is Nature.PLAIN for member in members)
    )


def of_arguments(schema: Schema) -> Schema:
    """The schema of a TypedDict whose keys are the names of parameters, and no others.

    As a configuration, this would also apply to dataclasses among the arguments.
    """
    if schema["type"] == "definitions":
        return {**schema, "schema": of_arguments(schema["schema"])}
    fields = {
        name: {part: value for part, value in field.items() if part != "validation_alias"}
        for name, field in schema["fields"].items()
    }
    return {**schema, "fields": fields, "extra_behavior": "forbid"}


# -- values that can be read once ---------------------------------------------------------------


def names_generator(kind: Any) -> bool:
    """Whether an annotation is a generator, which a list cannot replace."""
    parts = get_args(kind)
    if is_typeddict(kind):
        parts = tuple(kind.__annotations__.values())
    return get_origin(kind) is Generator or any(map(names_generator, parts))


def is_read_once(schema: Schema) -> bool:
    """Whether a value of it can be read only once."""
    return schema.get("type") == "generator" or any(map(is_read_once, _inside(schema)))


def class_read_once(schema: Schema) -> str | None:
    """Name of a class in a schema whose instances hold something that can be read only once."""
    if schema.get("type") in _INSTANCES and is_read_once(schema):
        return str(schema["cls"].__name__)
    return next(filter(None, map(class_read_once, _inside(schema))), None)


def with_lists(schema: Schema) -> Schema:
    """A schema with lists in place of types that can be read only once."""
    changed = {name: _with_lists(name, part) for name, part in schema.items()}
    if schema.get("type") != "generator":
        return changed
    function = {"type": "no-info", "function": _listed}
    return {"type": "function-before", "function": function, "schema": {**changed, "type": "list"}}


def _with_lists(name: str, part: Any) -> Any:
    if name in _OPAQUE:
        return part
    if name in _TABLES and isinstance(part, dict):
        return {key: with_lists(schema) for key, schema in cast("Schema", part).items()}
    if isinstance(part, dict):
        return with_lists(cast("Schema", part))
    if isinstance(part, list | tuple):
        items = [_with_lists("", item) for item in cast("list[object]", part)]
        return tuple(items) if isinstance(part, tuple) else items
    return part


def _listed(value: object) -> object:
    return list(cast("Iterable[object]", value)) if isinstance(value, Iterable) else value


def _inside(schema: Schema) -> Iterator[Schema]:
    """The parts of a schema that are schemas."""
    for name, part in schema.items():
        if name in _TABLES and isinstance(part, dict):
            yield from _schemas_in(list(cast("Schema", part).values()))
        elif name not in _OPAQUE:
            yield from _schemas_in(part)


def _schemas_in(part: object) -> Iterator[Schema]:
    if isinstance(part, dict):
        yield cast("Schema", part)
    elif isinstance(part, list | tuple):
        for item in cast("list[object]", part):
            yield from _schemas_in(item)
