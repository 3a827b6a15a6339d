"""Texts about objects of users, whatever the objects' own methods do.

A text that explains a failure is made between the failure and the record of it. Nothing that the
failing code defines may interfere there: methods that raise, or that return something else than a
text, or an endless text.
"""

from __future__ import annotations

from typing import Final, cast

from taquba._model.redaction import redact

MAX_ERROR_TEXT: Final = 4096
"""The most characters of a text that explains a failure."""

_MAX_READ: Final = 4 * MAX_ERROR_TEXT
"""How much of a text is examined: secrets are longer than their replacements."""

_MAX_NAME: Final = 200
_MAX_SHOWN: Final = 200


def describe(error: str | BaseException, *, bare: tuple[type[BaseException], ...] = ()) -> str:
    """An error as text that can be stored: its type and its message. Never raises.

    Secrets are replaced, see `redact`. Characters that UTF-8 cannot hold are escaped, and a text of
    more than 4,096 characters is shortened, with a note.

    Args:
        error: An exception, or the text itself.
        bare: Exceptions that are described by their message alone, without their type.
    """
    # Not isinstance, which would call the __class__ of the object.
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
    """`before` and a text in a form that can be stored: no secrets, valid UTF-8, shortened."""
    # Use the methods of str itself: those of a subclass may do anything.
    length = len(before) + str.__len__(text)
    # Before the text is shortened: half of a secret does not look like one.
    kept = redact(before + str.__getitem__(text, slice(_MAX_READ)))[:MAX_ERROR_TEXT]
    # For example the message of an OSError that names a file in another encoding.
    kept = kept.encode(errors="backslashreplace").decode()
    if max(length, len(kept)) <= MAX_ERROR_TEXT:
        return kept
    note = f"... ({length} characters)"
    return kept[: MAX_ERROR_TEXT - len(note)] + note


def shown(value: object) -> str:
    """A value for an error message: its repr, shortened if it is long. Never raises."""
    try:
        text = repr(value)
    except BaseException as why:
        return f"<{_name_of(value)} whose __repr__ raised {_name_of(why)}>"
    kept = redact(str.__getitem__(text, slice(_MAX_READ)))
    return kept if len(kept) <= _MAX_SHOWN else f"{kept[:_MAX_SHOWN]}..."


def _name_of(value: object) -> str:
    # Of type itself: a metaclass may have a __name__ of its own.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name[:_MAX_NAME]
