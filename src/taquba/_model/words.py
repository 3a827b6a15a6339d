"""Enumerations whose values are words."""

from __future__ import annotations

from enum import EnumMeta, StrEnum
from typing import TYPE_CHECKING


class _LowerCase(EnumMeta):
    """Finds a member by its name in lower case, too, as programs wrote it before the first release.

    Not by aliases: the reference would show each member twice.
    """

    if not TYPE_CHECKING:
        # A type checker that sees this takes any name for a member.

        def __getattr__(cls, name):
            members = cls.__dict__.get("_member_map_", {})
            found = members.get(name) or members.get(name.upper())
            if found is None:
                raise AttributeError(f"{cls.__name__} has no member {name!r}")
            return found


class WordEnum(StrEnum, metaclass=_LowerCase):
    """A `StrEnum` whose members can be written in lower case as well."""
