"""Calls over a unix socket: any number at the same time, and nobody suffers from a bad client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from taquba._line.address import socket_path
from taquba._line.client import CallFailed, Disconnected, SocketClient
from taquba._line.connection import Connection, Refused
from taquba._line.frames import MAX_BODY, VERSION, TooLarge, frame
from taquba._line.server import SocketServer
from taquba._objects.location import StoreLocation

SECONDS = 20


class Echo:
    """Answers with what it was asked, when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.most_at_a_time = self.at_a_time = 0

    async def __call__(self, _: Connection, method: str, arguments: list[object]) -> object:
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            await self.open.wait()
        finally:
            self.at_a_time -= 1
        match method:
            case "refuse":
                raise Refused("NotToday", "try again")
            case "fail":
                raise ZeroDivisionError
            case "large":
                return b"x" * (MAX_BODY + 1)
            case _:
                return [method, *arguments]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(path: Path, echo: Echo) -> AsyncIterator[SocketServer]:
    server = await SocketServer.listen(path, echo)
    yield server
    await server.close()


@pytest.fixture
async def client(server: SocketServer, path: Path) -> AsyncIterator[SocketClient]:
    client = await SocketClient.connect(path)
    yield client
    await client.close()


async def test_many_calls_share_a_connection(client: SocketClient, echo: Echo) -> None:
    echo.open.clear()
    calls = [asyncio.create_task(client.call(SECONDS, "m", number, b"x")) for number in range(300)]
    await until(lambda: echo.at_a_time == 300)
    echo.open.set()
    assert await asyncio.gather(*calls) == [["m", number, b"x"] for number in range(300)]


async def test_a_later_call_may_be_answered_first(client: SocketClient, echo: Echo) -> None:
    echo.open.clear()
    slow = asyncio.create_task(client.call(SECONDS, "slow"))
    await until(lambda: echo.at_a_time == 1)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(Disconnected, match="within"):
            await client.call(0.01, "given up")
        echo.open.set()
        assert await client.call(SECONDS, "next") == ["next"]
        assert await slow == ["slow"]


async def test_what_fails_fails_alone(client: SocketClient) -> None:
    with pytest.raises(CallFailed) as refused:
        await client.call(SECONDS, "refuse", 1, "two")
    assert (refused.value.kind, str(refused.value)) == ("NotToday", "NotToday: try again")
    with pytest.raises(CallFailed, match="ZeroDivisionError"):
        await client.call(SECONDS, "fail")
    with pytest.raises(CallFailed, match="TooLarge"):
        await client.call(SECONDS, "large")
    with pytest.raises(TooLarge):
        await client.call(SECONDS, "m", b"x" * MAX_BODY)
    assert await client.call(SECONDS, "m") == ["m"]


async def test_large_calls_wait_for_each_other(client: SocketClient, echo: Echo) -> None:
    payload = b"x" * (4 * 1024 * 1024)
    echo.open.clear()
    calls = [asyncio.create_task(client.call(SECONDS, "m", payload)) for _ in range(30)]
    await asyncio.wait(calls, timeout=0.3)
    echo.open.set()
    for reply in await asyncio.gather(*calls):
        assert reply == ["m", payload]
    # 32 MiB, and the one that went over it; a chunk may have held the end of another.
    assert echo.most_at_a_time <= 10


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">IB", 5, VERSION + 1) + b"hello",
        struct.pack(">IB", MAX_BODY + 1, VERSION),
        struct.pack(">IB", 3, VERSION) + b"\xff\xff\xff",
        frame("no number", "m"),
        frame(1),
        frame(),
    ],
)
async def test_who_sends_garbage_is_disconnected_and_nobody_else(
    client: SocketClient, path: Path, garbage: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(garbage)
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert await client.call(SECONDS, "m") == ["m"]


async def test_who_does_not_take_replies_is_not_read_from(
    client: SocketClient, path: Path, echo: Echo
) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    request = frame(1, "m", b"x" * 1024 * 1024)
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 1000:
                writer.write(request)
                await writer.drain()
                sent += 1
    assert sent < 200
    assert await client.call(SECONDS, "m") == ["m"]
    writer.transport.abort()


async def test_when_the_server_ends_its_clients_are_told(
    server: SocketServer, client: SocketClient, echo: Echo, path: Path
) -> None:
    echo.open.clear()
    waiting = asyncio.create_task(client.call(SECONDS, "m"))
    await until(lambda: echo.at_a_time == 1)
    await server.close()
    with pytest.raises(Disconnected):
        await asyncio.wait_for(waiting, SECONDS)
    assert not client.connected
    with pytest.raises(Disconnected):
        await client.call(SECONDS, "m")
    with pytest.raises(OSError, match="No such file"):
        await SocketClient.connect(path)
    assert not await asyncio.to_thread(path.exists)


async def test_who_dies_while_calls_are_sent_leaves_no_error_unheard(path: Path) -> None:
    unheard: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)
        client = await SocketClient.connect(path)
        other_end, _ = await loop.sock_accept(listening)
        sent = bytes(MAX_BODY // 2)
        calls = [asyncio.create_task(client.call(SECONDS, "m", sent)) for _ in range(3)]
        await loop.sock_recv(other_end, 1)
        other_end.close()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} == {Disconnected}
    await client.close()
    del calls, ends
    gc.collect()
    assert unheard == []


async def test_a_successor_takes_the_path_and_keeps_it(
    server: SocketServer, path: Path, echo: Echo
) -> None:
    successor = await SocketServer.listen(path, echo)
    await server.close()
    client = await SocketClient.connect(path)
    assert await client.call(SECONDS, "m") == ["m"]
    await client.close()
    await successor.close()


async def test_a_path_that_nobody_listens_on_is_no_owner(path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await SocketClient.connect(path)
    await asyncio.to_thread(path.write_bytes, b"")
    with pytest.raises(ConnectionRefusedError):
        await SocketClient.connect(path)


async def test_only_the_owners_user_may_connect(server: SocketServer, path: Path) -> None:
    mode = (await asyncio.to_thread(path.stat)).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_keeps_no_connection_alive(path: Path, echo: Echo) -> None:
    server = await SocketServer.listen(path, echo)
    client = await SocketClient.connect(path)
    assert await client.call(SECONDS, "m") == ["m"]
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    waiting = asyncio.create_task(client.call(SECONDS, "m"))
    await server.close()
    with contextlib.suppress(Disconnected):
        await asyncio.wait_for(waiting, SECONDS)
    await until(lambda: not client.connected)
    os.close(write_end)
    os.close(read_end)
    await asyncio.to_thread(os.waitpid, pid, 0)
    await client.close()


def where(url: str) -> Path:
    return socket_path(StoreLocation.parse(url))


def test_the_socket_of_a_folder_is_in_it(short_path: Path) -> None:
    assert where(str(short_path / "s")) == short_path / "s" / "producer.sock"


def test_where_a_path_is_too_long_the_socket_is_elsewhere(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    link = tmp_path / ("y" * 120)
    link.symlink_to(long)
    assert len(os.fsencode(where(str(long)))) < 100
    assert where(str(long)) == where(f"{long.parent}/{long.name}") == where(str(link))
    assert where(str(long)) != where(str(tmp_path / ("z" * 120)))
    assert stat.S_IMODE(where(str(long)).parent.stat().st_mode) == 0o700


def test_buckets_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {where(url) for url in ("s3://b/p", "s3://b/p/", "s3://b/q", "gs://b/p", "s3://c/p")}
    assert len(paths) == 4
    here = where("s3://b/p")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    assert where("s3://b/p") != here


def test_a_folder_that_others_can_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = where("s3://b/p").parent
    assert folder.parent == tmp_path
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="only this user"):
        where("s3://b/p")
