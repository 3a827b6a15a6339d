"""`Leash`: what is awaited through it can be left behind, and is otherwise as it always is."""

from __future__ import annotations

import asyncio
import gc

import pytest

from taquba.extending import Leash


async def test_results_errors_and_cancellations_pass_through() -> None:
    async def result() -> int:
        await asyncio.sleep(0)
        return 3

    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ValueError

    async def waits() -> None:
        await asyncio.Event().wait()

    assert await Leash(result()) == 3
    with pytest.raises(ValueError):
        await Leash(fails())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Leash(waits())
    assert await Leash(asyncio.create_task(result())) == 3


async def test_what_swallows_everything_is_left_where_it_waits() -> None:
    seen: list[str] = []

    async def swallows() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except BaseException as error:
                seen.append(type(error).__name__)

    leash = Leash(swallows())

    async def awaits() -> None:
        await leash

    task = asyncio.create_task(awaits())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    leash.leave(ValueError("left"))
    leash.leave(ValueError("again"))
    with pytest.raises(ValueError, match="left"):
        await task
    assert leash.left
    assert seen == ["CancelledError"]
    gc.collect()
    await asyncio.sleep(0.01)
    assert seen == ["CancelledError"]


async def test_work_may_have_itself_left_behind() -> None:
    async def work() -> None:
        leash.leave(ValueError("left"))
        await asyncio.sleep(0)
        raise AssertionError("it is never resumed")

    leash = Leash(work())
    with pytest.raises(ValueError, match="left"):
        await leash
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_that_ends_before_it_waits_again_is_not_left() -> None:
    async def work() -> int:
        leash.leave(ValueError("left"))
        return 3

    leash: Leash[int] = Leash(work())
    assert await leash == 3
