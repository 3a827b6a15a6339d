"""Tasks that live no longer than the block that started them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import anyio

from taquba._model.own_tasks import was_cancelled

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await several coroutines at the same time.

    Returns:
        Their results, in order. The first error cancels the others, and is raised once they have
        ended.
    """
    failure: BaseException | None = None
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure
    for task in tasks:
        if task.cancelled():
            # A task group takes this for an end like any other.
            raise was_cancelled(task)
    return [task.result() for task in tasks]


async def until_one_ends(loops: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run loops until one of them ends; then cancel the others, and wait for them.

    Raises what a loop has failed with, the first one's where several did. A loop that was
    cancelled from outside has failed, too.

    Args:
        loops: By the names of their tasks.
    """
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    cut_off: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        cut_off = [task for task in tasks if task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        # A cancelled scope of anyio's would cancel this wait, too.
        with anyio.CancelScope(shield=True):
            await asyncio.wait(tasks)
        # All are asked, for the event loop reports an error that nobody asks for.
        errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    for task in cut_off:
        raise was_cancelled(task)
