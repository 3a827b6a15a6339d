"""A receiver of webhooks: a real HTTP server on loopback that answers as a test wants."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from taquba import JobRecord, Queue
from taquba.testing import drain
from taquba_webhooks import WebhookRequest, WebhookWorker, enqueue_webhook

REAL_SECONDS = 20
"""Bound on what a test waits for in real time; nothing here takes nearly as long."""


@dataclass
class Received:
    """A request, as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw_head: bytes


Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answering(status: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Answers every request in the same way."""

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(status, body, headers))

    return answer


def response(status: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Receiver:
    answer: Answer = field(default_factory=lambda: answering("200 OK"))
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    bytes_sent: int = 0
    scheme: str = "http"
    port: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.url_of("127.0.0.1")

    def url_of(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.port}"

    async def received(self, count: int) -> None:
        """Wait until so many requests have come in."""
        async with asyncio.timeout(REAL_SECONDS):
            while len(self.requests) < count:
                self._came.clear()
                await self._came.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                self.requests.append(await _read(reader))
                self._came.set()
                await self.answer(self.requests[-1], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side is gone, or the test is over
        finally:
            self._serving.discard(task)
            writer.close()

    async def stop(self) -> None:
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(set(self._serving))


async def _read(reader: asyncio.StreamReader) -> Received:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, head)


@asynccontextmanager
async def receiving(
    answer: Answer | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    receiver = Receiver(scheme="https" if tls else "http")
    if answer is not None:
        receiver.answer = answer
    server = await asyncio.start_server(receiver.serve, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.stop()
        await server.wait_closed()


def resolving(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, list[list[str]]]) -> None:
    """Let the machine's resolver know these names as well.

    Each look-up of a name takes the next of its answers, which are lists of addresses; the last
    one stays.
    """
    real = socket.getaddrinfo
    left = {name: list(lists) for name, lists in answers.items()}

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in left:
            return real(host, *arguments, **options)
        addresses = left[name].pop(0) if len(left[name]) > 1 else left[name][0]
        return [found for address in addresses for found in real(address, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def deliver(
    queue: Queue,
    request: WebhookRequest,
    body: bytes = b"{}",
    worker: WebhookWorker | None = None,
    **options: Any,
) -> JobRecord | None:
    """Make one attempt at a delivery; what is left of its job."""
    job = await enqueue_webhook(queue, "hooks", request, body)
    if worker is not None:
        await drain(queue, "hooks", worker)
    else:
        async with WebhookWorker(**({"allow_private_addresses": True} | options)) as own:
            await drain(queue, "hooks", own)
    return await queue.get_job(job.id)
