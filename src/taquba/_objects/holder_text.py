"""Which process owns a store, as its owner has written it beside the sign that it lives.

A lock or a lease says that an owner lives; this says only which process it is, to people.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from typing import Final

from taquba._model.clock import from_ms
from taquba._model.codec import UNREADABLE
from taquba._model.holder import Holder

_LONGEST_HOST: Final = 255


def this_process(since_ms: int) -> Holder:
    """This process, which becomes the owner at that time, in wall ms."""
    return Holder(socket.gethostname(), os.getpid(), from_ms(since_ms))


def describe_this_process(since_ms: int) -> dict[str, object]:
    """What others read with `holder_in`, to be written as JSON."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since_ms}


def holder_in(content: bytes) -> Holder:
    """The process that a text names; of a text that cannot be read all is unknown."""
    try:
        found = json.loads(content)
        return Holder(_host(found.get("host")), _pid(found.get("pid")), _since(found.get("since")))
    except UNREADABLE:
        return Holder()


def _host(value: object) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_HOST and value.isprintable():
        return value
    return None


def _pid(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _since(value: object) -> datetime | None:
    try:
        return from_ms(value) if type(value) is int else None
    except (OverflowError, ValueError, OSError):
        return None
