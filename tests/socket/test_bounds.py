"""Many connections, large calls and slow clients cost the owner little, and keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from taquba import Producer, Queue
from taquba._line import connection as connection_module
from taquba._line import server as server_module
from taquba._line.address import socket_path
from taquba._line.budget import Budget
from taquba._line.client import CallFailed, Disconnected, SocketClient
from taquba._line.connection import Connection, Large
from taquba._line.frames import MAX_BODY, frame
from taquba._line.server import SocketServer, most_connections
from taquba._objects.location import StoreLocation
from tests.socket.test_calls import until

SECONDS = 20
MOST = 10
MIB = 1024 * 1024


class Store:
    """Answers "large" with many bytes, and counts how many of them there are at a time."""

    def __init__(self) -> None:
        self.loaded = self.most_loaded = 0

    async def __call__(self, _: Connection, method: str, arguments: list[object]) -> object:
        return Large(self._load) if method == "large" else arguments

    async def _load(self) -> object:
        self.loaded += 1
        self.most_loaded = max(self.most_loaded, self.loaded)
        await asyncio.sleep(0)
        self.loaded -= 1
        return b"x" * (8 * MIB)


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MOST_CONNECTIONS", MOST)


@pytest.fixture
async def server(short_path: Path) -> AsyncIterator[Path]:
    server = await SocketServer.listen(short_path / "s", Store())
    yield short_path / "s"
    await server.close()


@pytest.fixture
def soft_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_connections_take_a_quarter_of_what_a_process_may_open(soft_limit: None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for soft, expected in ((400, 100), (3, 1)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert most_connections() == expected
    assert most_connections() <= 1000


async def test_idle_connections_make_room_for_new_ones(few_connections: None, server: Path) -> None:
    clients = []
    for number in range(5 * MOST):
        client = await SocketClient.connect(server)
        clients.append(client)
        assert await client.call(SECONDS, "m", number) == [number]
    await until(lambda: sum(client.connected for client in clients) <= MOST)
    # Those that were used last are still there.
    assert all(client.connected for client in clients[1 - MOST :])
    for client in clients:
        await client.close()


async def test_many_that_connect_at_once_and_say_nothing_keep_nobody_out(
    few_connections: None, server: Path
) -> None:
    silent = await asyncio.gather(*(asyncio.open_unix_connection(server) for _ in range(60)))
    client = await SocketClient.connect(server)
    try:
        assert await client.call(SECONDS, "m") == []
    finally:
        await client.close()
        for _, writer in silent:
            writer.transport.abort()


async def test_a_connection_that_is_used_is_not_ended_for_a_new_one(
    few_connections: None, server: Path
) -> None:
    started = [await asyncio.open_unix_connection(server) for _ in range(MOST)]
    for _, writer in started:
        writer.write(frame(1, "m", b"x" * 1000)[:-1])
    await asyncio.sleep(0.1)
    late = await SocketClient.connect(server)
    call = asyncio.create_task(late.call(SECONDS, "m"))
    await asyncio.wait([call], timeout=0.1)
    assert not call.done()
    started[0][1].write(b"x")
    assert await started[0][0].readexactly(10)
    # It is idle now, and makes room.
    assert await call == []
    await late.close()
    for _, writer in started:
        writer.transport.abort()


async def test_a_frame_that_is_never_finished_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setattr(connection_module, "_PATIENCE_SECONDS", 0.1)
    reader, writer = await asyncio.open_unix_connection(server)
    writer.write(frame(1, "m", b"x" * 1000)[:-1])
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def test_large_replies_are_loaded_few_at_a_time(short_path: Path) -> None:
    store = Store()
    server = await SocketServer.listen(short_path / "s", store)
    clients = [await SocketClient.connect(short_path / "s") for _ in range(5)]
    calls = [client.call(60, "large") for client in clients for _ in range(4)]
    for reply in await asyncio.gather(*calls):
        assert isinstance(reply, bytes)
        assert len(reply) == 8 * MIB
    assert store.most_loaded <= 2
    for client in clients:
        await client.close()
    await server.close()


async def test_one_that_does_not_take_its_large_replies_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setattr(connection_module, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(connection_module, "_SLOWEST_BYTES_PER_SECOND", 1024 * MIB)
    _, writer = await asyncio.open_unix_connection(server)
    for number in range(4):
        writer.write(frame(number, "large"))
    client = await SocketClient.connect(server)
    reply = await client.call(SECONDS, "large")
    assert isinstance(reply, bytes)
    await client.close()
    writer.transport.abort()


async def test_a_reply_that_is_too_large_is_refused(short_path: Path) -> None:
    async def load() -> object:
        return b"x" * (MAX_BODY + 1)

    async def answer(_: Connection, method: str, arguments: list[object]) -> object:
        return Large(load)

    server = await SocketServer.listen(short_path / "s", answer)
    client = await SocketClient.connect(short_path / "s")
    with pytest.raises(CallFailed, match="TooLarge"):
        await client.call(SECONDS, "m")
    await client.close()
    await server.close()


async def test_a_budget_serves_in_order_and_never_gives_more_than_it_has() -> None:
    budget = Budget(10)
    await budget.take(6)
    waiting = [asyncio.create_task(budget.take(size)) for size in (5, 1, 20)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    await asyncio.wait([waiting[1]], timeout=1)
    assert waiting[1].done()
    budget.give(1)
    budget.give(6)
    # More than there is, when nobody else has any.
    await asyncio.wait_for(waiting[2], 1)


async def test_names_of_batches_are_checked(tmp_path: Path) -> None:
    async with Queue.open(tmp_path, inbox=True, producer_socket=True) as queue:
        client = await SocketClient.connect(socket_path(StoreLocation.parse(tmp_path)))
        for name in ("", "x" * 10**4, "\0", "../x"):
            with pytest.raises(CallFailed, match="name"):
                await client.call(SECONDS, "batch", name, b"")
        await client.close()
        assert (await queue.stats("q")).pending == 0


IDLE = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
held = []
for _ in range(400):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(0.5)
    held.append(one)
    try:
        one.connect(sys.argv[1])
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.read()
"""


async def test_more_idle_connections_than_the_owner_may_open_harm_nobody(
    short_path: Path, soft_limit: None
) -> None:
    store = short_path / "store"
    # What the test run itself has open, in one process for many tests, comes on top.
    soft = len(os.listdir("/dev/fd")) + 256
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    async with Queue.open(store, inbox=True, producer_socket=True) as queue:
        idle = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            IDLE,
            store / "producer.sock",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert idle.stdout is not None
        assert await idle.stdout.readline() == b"ready\n"
        try:
            async with Producer.open(store) as producer:
                receipt = await producer.enqueue("q", b"")
                with contextlib.suppress(Disconnected):
                    assert await queue.get_job(receipt.id) is not None
            await queue.enqueue("q", b"")
        finally:
            idle.kill()
            await idle.wait()


async def test_a_request_that_is_dropped_before_its_turn_is_passed_over() -> None:
    budget = Budget(10)
    await budget.take(10)
    dropped, next_one = (asyncio.create_task(budget.take(5)) for _ in range(2))
    await asyncio.sleep(0)
    dropped.cancel()
    # Before the task has seen that.
    budget.give(10)
    await next_one
    with pytest.raises(asyncio.CancelledError):
        await dropped
    budget.give(5)
