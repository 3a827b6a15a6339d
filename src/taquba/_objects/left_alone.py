"""Foreign files in a store's places: left as they are, and logged once."""

from __future__ import annotations

import logging
from typing import Final

_log: Final = logging.getLogger(__name__)

_MOST: Final = 1000
_told: Final[set[tuple[str, str]]] = set()


def leave_alone(name: str, place: str, why: str) -> None:
    """Log that something is not touched, the first time that it is seen in this process.

    Args:
        name: What it is called, whatever characters that has.
        place: Where it is.
        why: What is wrong with it.
    """
    if (name, place) not in _told and len(_told) < _MOST:
        _told.add((name, place))
        _log.warning("%.300s in %s is left alone: %s", ascii(name), place, why)
