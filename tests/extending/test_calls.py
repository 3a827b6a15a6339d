"""What packages serve at the owner is called by name, in its process and from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from taquba import InvalidArgument, Queue, QueueClosed
from taquba._line.client import CallFailed
from taquba._line.remote_owner import OwnerSocket
from taquba._objects.location import StoreLocation
from taquba.extending.calls import NotServed, call, serving

SECONDS = 10


async def add(one: int, other: int) -> int:
    return one + other


async def fail() -> None:
    raise InvalidArgument("not so")


async def test_a_call_in_the_process_of_the_owner_is_a_plain_one(queue: Queue) -> None:
    given = object()

    async def same(value: object) -> object:
        return value

    with serving(queue, {"example.same": same}):
        assert await call(queue, "example.same", given) is given


async def test_what_is_no_longer_served_is_named(queue: Queue) -> None:
    with serving(queue, {"example.add": add}):
        pass
    with pytest.raises(NotServed, match=r"example\.add") as caught:
        await call(queue, "example.add", 1, 2)
    assert not caught.value.permanent


async def test_a_name_is_served_once(queue: Queue) -> None:
    with serving(queue, {"example.add": add}):
        both = serving(queue, {"example.other": add, "example.add": add})
        with pytest.raises(InvalidArgument, match=r"example\.add"), both:
            pytest.fail("two serve it")
        assert await call(queue, "example.add", 1, 2) == 3
        with pytest.raises(NotServed):
            await call(queue, "example.other", 1, 2)


async def test_a_closed_queue_serves_nothing(queue: Queue) -> None:
    with serving(queue, {"example.add": add}):
        await queue.close()
        with pytest.raises(QueueClosed):
            await call(queue, "example.add", 1, 2)


async def test_another_connection_calls_the_same_functions(short_path: Path) -> None:
    async with Queue.open(short_path, producer_socket=True) as queue:
        other = OwnerSocket(StoreLocation.parse(short_path))
        with serving(queue, {"example.add": add, "example.fail": fail}):
            assert await other.call(SECONDS, "example.add", 1, 2) == 3
            with pytest.raises(CallFailed, match="not so") as caught:
                await other.call(SECONDS, "example.fail")
            assert caught.value.kind == "InvalidArgument"
            with pytest.raises(CallFailed, match="TypeError: see the owner's log"):
                await other.call(SECONDS, "example.add", 1)
        with pytest.raises(CallFailed) as unknown:
            await other.call(SECONDS, "example.add", 1, 2)
        assert unknown.value.kind == "UnknownCall"
        await other.close()
