"""Repeating requests to a bucket: a single refusal may be wrong, or pass within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from obstore.exceptions import BaseError

from taquba._objects.places import Place

T = TypeVar("T")

PAUSES: Final = (0.1, 0.3, 0.6, 1.0)
"""Seconds between a request that was refused and the next one.

The client itself repeats requests after temporary failures (429, 5xx, broken connections). This is
for the rest: an expired token that is being renewed, a bucket that is not found for a moment.
"""

_PATIENCE_SECONDS: Final = 2.5
"""After which a request is not sent again: one that takes long to fail was repeated already."""


async def ask(
    place: Place,
    action: str,
    request: Callable[[], Awaitable[T]],
    seconds: float = _PATIENCE_SECONDS,
) -> T:
    """Send a request to a bucket, and again where it is refused; raises the last refusal.

    Args:
        place: Where to; is told when it did what it was asked for, that is, when the answer is
            not None.
        action: What the request does, as a verb.
        request: Sends it. Answers that the caller expects must not raise.
        seconds: After which it is not sent again.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    for pause in (*PAUSES, None):
        try:
            answer = await request()
        except (BaseError, OSError, ValueError):
            if pause is None or loop.time() - started + pause > min(seconds, _PATIENCE_SECONDS):
                raise
        else:
            if answer is not None:
                place.note(action)
            return answer
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")
