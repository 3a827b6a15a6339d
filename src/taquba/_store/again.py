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
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from slatedb.uniffi import CloseReason, Error

from taquba._model.errors import StoreError, TaqubaError
from taquba._store.problems import Problem

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_BELIEVED: Final = re.compile("not found|already exists", re.IGNORECASE)
"""What clients and the engine do not ask for again."""

A_MOMENT: Final = (0.1, 0.3)
"""Seconds between the tries of something that must say soon what is wrong."""

A_WHILE: Final = (0.1, 0.2, 0.4, 0.8, *[1.0] * 8)
"""Seconds between the tries of something that takes many requests, each of which may be the one."""

_SAME: Final = 3
"""Tries that come to the same after which one more would too: what is missing stays missing."""


async def again(
    step: Callable[[], Awaitable[T]], what: str, pauses: Sequence[float] = A_MOMENT
) -> T:
    """Do a step, again after each of `pauses` (seconds) while an odd answer may have spoiled it.

    Raises:
        TaqubaError: What the last try came to.
    """
    said: list[str] = []
    for pause in pauses:
        try:
            return await step()
        except TaqubaError as error:
            said = [text for text in said if text == str(error)] + [str(error)]
            if not may_be_odd(error) or len(said) == _SAME:
                raise
            _log.warning("%s failed, and is tried again: %s", what, error)
        await asyncio.sleep(pause)
    return await step()


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
    if isinstance(cause, Error.Unavailable):
        # Most of these were asked for many times already.
        return _BELIEVED.search(str(error)) is not None
    return cause is not None and not isinstance(cause, Error.Invalid)
