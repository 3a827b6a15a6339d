"""Values as people write them at a prompt: durations, points in time, priorities, headers."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

import typer

from taquba import PRIORITY_HIGH, PRIORITY_LOW, PRIORITY_NORMAL

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_PRIORITIES: Final = {"high": PRIORITY_HIGH, "normal": PRIORITY_NORMAL, "low": PRIORITY_LOW}


def duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``1h30m``, ``7d``; a number alone is seconds."""
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        pass
    total, position = timedelta(), 0
    while part := _PART.match(text, position):
        try:
            total += float(part[1]) * _UNITS[part[2]]
        except OverflowError:
            break
        position = part.end()
    if position == 0 or position != len(text):
        raise typer.BadParameter(f"{text!r} is not a duration: write 90s, 15m, 1h30m or 7d")
    return total


def moment(text: str) -> datetime:
    """A point in time in ISO 8601, with its zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time: write it like 2030-01-31T09:00:00Z"
        ) from None
    if found.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone: end it with Z for UTC, or with an offset like +02:00"
        )
    return found


def priority(text: str) -> int:
    """``high``, ``normal``, ``low``, or a number (lower first)."""
    named = _PRIORITIES.get(text.lower())
    if named is not None:
        return named
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a priority: write high, normal, low or a number (lower is first)"
        ) from None


def header(text: str) -> tuple[str, str]:
    """``name=value``."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{text!r} is not a header: write name=value")
    return name, value
