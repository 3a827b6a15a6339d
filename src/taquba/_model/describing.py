"""Texts about objects of users, whatever their own methods do.

A text that explains a failure is made between the failure and what is written about it. Nothing
that the failing code defines may get in the way there: methods that raise, or return anything but
a text, or a text without an end.
"""

from __future__ import annotations

from typing import Final, cast

MAX_ERROR_TEXT: Final = 4096
"""The most characters of a text that explains a failure."""

_MAX_NAME: Final = 200
_MAX_SHOWN: Final = 200


def describe(error: str | BaseException, *, bare: tuple[type[BaseException], ...] = ()) -> str:
    """An error as text that can be stored: its type and its message. Never raises.

    What UTF-8 cannot hold is escaped, and a text of more than 4,096 characters is cut, with a note.

    Args:
        error: An exception, or the text itself.
        bare: Exceptions whose message says it all: without their type.
    """
    # Not isinstance, which would ask what it is given for its __class__.
    if issubclass(type(error), str):
        return bounded(cast("str", error))
    name = _name_of(error)
    try:
        message = str(error)
    except BaseException as why:
        return f"{name} (without its message: __str__ raised {_name_of(why)})"
    if not str.__len__(message):
        return name
    return bounded(message, "" if issubclass(type(error), bare) else f"{name}: ")


def bounded(text: str, before: str = "") -> str:
    """`before` and a text as UTF-8 can hold them, cut where they are longer than may be kept."""
    # Methods of str itself: those of a subclass may do anything.
    length = len(before) + str.__len__(text)
    kept = before + str.__getitem__(text, slice(MAX_ERROR_TEXT))
    # For example the message of an OSError that names a file in another encoding.
    kept = kept.encode(errors="backslashreplace").decode()
    if max(length, len(kept)) <= MAX_ERROR_TEXT:
        return kept
    note = f"... ({length} characters)"
    return kept[: MAX_ERROR_TEXT - len(note)] + note


def shown(value: object) -> str:
    """A value in an error message: its repr, cut where it is long. Never raises."""
    try:
        text = repr(value)
    except BaseException as why:
        return f"<{_name_of(value)} whose __repr__ raised {_name_of(why)}>"
    kept = str.__getitem__(text, slice(_MAX_SHOWN))
    return kept if str.__len__(text) <= _MAX_SHOWN else f"{kept}..."


def _name_of(value: object) -> str:
    # Of type itself: a metaclass may have a __name__ of its own.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name[:_MAX_NAME]
