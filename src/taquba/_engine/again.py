"""Repeat what one odd answer of a store may have spoiled.

Clients and the engine repeat what was refused for a moment (busy, no connection, an error of the
server). They believe everything else at once: that an object is not there or is there already, that
the bucket does not exist, that the credentials are refused. Each of these is an answer that a store
may give once, and take back a moment later.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from slatedb.uniffi import CloseReason, Error

from taquba._model.errors import StoreError, TaqubaError
from taquba._objects.problems import Problem

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_REPEATED_SECONDS: Final = 5.0
"""What the engine calls unavailable after so long it has asked for many times already."""

A_MOMENT: Final = (0.1, 0.3)
"""Seconds between the tries of something that must say soon what is wrong."""

A_WHILE: Final = (0.1, 0.2, *[0.4] * 20)
"""Seconds between the tries of something that takes many requests, each of which may be the one: an
opening that reads a hundred files of the log over a bucket that answers one request in a hundred
oddly goes well every fifth time."""

_SAME: Final = 3
"""Tries that come to the same after which one more would too: what is missing stays missing."""

_LONG: Final = 2
"""Tries in which the engine has asked many times already after which one more will not help. One
may have been long only because it had much to read, or the machine much else to do."""

_NAMELESS: Final = re.compile(r"\bwal\b[^/`]*object store error\W*$", re.IGNORECASE)
"""Some file of the write-ahead log could not be read: not the same one each time, for there may be
hundreds."""


async def again(
    step: Callable[[], Awaitable[T]], what: str, pauses: Sequence[float] = A_MOMENT
) -> T:
    """Do a step, again after each of `pauses` (seconds) while an odd answer may have spoiled it.

    Raises:
        TaqubaError: What the last try came to.
    """
    said: list[str] = []
    long = 0
    for pause in pauses:
        started = time.monotonic()
        try:
            return await step()
        except TaqubaError as error:
            said = [text for text in said if text == str(error)]
            if not _NAMELESS.search(str(error)):
                said.append(str(error))
            long += was_repeated(error.__cause__, started)
            if long == _LONG or not may_be_odd(error) or len(said) == _SAME:
                raise
            _log.warning("%s failed, and is tried again: %s", what, error)
        await asyncio.sleep(pause)
    return await step()


def was_repeated(error: BaseException | None, started: float) -> bool:
    """Whether the engine has asked again by itself, since a time by the monotonic clock."""
    return isinstance(error, Error.Unavailable) and time.monotonic() - started > _REPEATED_SECONDS


def may_be_odd(error: TaqubaError) -> bool:
    """Whether a failure may come from one answer that the store does not give again."""
    cause = error.__cause__
    if not isinstance(error, StoreError):
        return False
    if isinstance(cause, Problem):
        # That request was sent several times already.
        return False
    if isinstance(cause, Error.Closed):
        return cause.reason is not CloseReason.CLEAN
    return cause is not None and not isinstance(cause, Error.Invalid)
