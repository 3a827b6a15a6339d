"""Work on thousands of items without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
K = TypeVar("K")

AT_ONCE: Final = 256
"""Each is a separate task, and all that are made together start in one turn of the loop."""


def slices(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """At most `AT_ONCE` at a time, in their order."""
    if len(things) <= AT_ONCE:
        yield things
        return
    for start in range(0, len(things), AT_ONCE):
        yield things[start : start + AT_ONCE]


async def in_slices(work: Callable[[K], Awaitable[T]], things: Sequence[K]) -> list[T]:
    """The results of `work` for each, at most `AT_ONCE` at the same time."""
    if len(things) == 1:
        # Most often there is only one, which needs no separate task.
        return [await work(things[0])]
    done: list[T] = []
    for some in slices(things):
        done += await asyncio.gather(*map(work, some))
    return done
