"""Deliveries stay out of private networks: on real connections, whatever names resolve to.

Where a test needs a public address that it can listen on, it moves the border between public and
private into the loopback network: 127.0.0.1 is then public, and 127.0.0.2 private.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network

import httpx
import pytest
import trustme

from taquba import JobRecord, JobStatus, Queue
from taquba_webhooks import WebhookRequest, WebhookWorker, _addresses, webhook_enqueue_request
from tests.webhooks.support import Received, Receiver, answering, deliver, receiving, resolving

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"
PRIVATE_NETWORK = IPv4Network(f"{PRIVATE}/32")

needs_whole_loopback_network = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only 127.0.0.1 can be listened on"
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
def moved_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_addresses, "_NOT_PUBLIC_V4", [PRIVATE_NETWORK])


def refused(job: JobRecord | None) -> str:
    assert job is not None
    assert job.status is JobStatus.DEAD
    assert job.last_error is not None
    return job.last_error


# -- connections of the worker's own ------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0x7f000001", "017700000001",
             "127.1", "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"]
)  # fmt: skip
async def test_private_addresses_are_refused_before_anything_is_sent(
    queue: Queue, receiver: Receiver, host: str
) -> None:
    job = await deliver(queue, WebhookRequest(receiver.url_of(host)), allow_private_addresses=False)
    assert "not a public address" in refused(job)
    assert "allow_private_addresses" in refused(job)
    assert receiver.connections == 0


@needs_whole_loopback_network
@pytest.mark.usefixtures("moved_border")
async def test_the_address_that_was_checked_is_the_one_connected_to(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere when it is asked for the second time."""
    resolving(monkeypatch, {"hooks.example": [[PUBLIC], [PRIVATE]]})
    async with (
        receiving(host=PUBLIC) as receiver,
        receiving(host=PRIVATE, port=receiver.port) as victim,
    ):
        url = receiver.url_of("hooks.example")
        job = await deliver(queue, WebhookRequest(url), allow_private_addresses=False)
        assert job is None
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
        job = await deliver(queue, WebhookRequest(url), allow_private_addresses=False)
        assert f"leads to {PRIVATE}, which is not a public address" in refused(job)
        assert victim.connections == 0


@pytest.mark.usefixtures("moved_border")
async def test_a_name_with_one_private_address_is_refused(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, {"hooks.example": [[PUBLIC, PRIVATE]]})
    url = receiver.url_of("hooks.example")
    refused(await deliver(queue, WebhookRequest(url), allow_private_addresses=False))
    assert receiver.connections == 0


@needs_whole_loopback_network
@pytest.mark.usefixtures("moved_border")
async def test_the_next_address_is_tried_when_one_does_not_answer(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, {"hooks.example": [["127.0.0.3", PUBLIC]]})
    url = receiver.url_of("hooks.example")
    assert await deliver(queue, WebhookRequest(url), allow_private_addresses=False) is None
    assert len(receiver.requests) == 1


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """An address that does not answer who wants to connect: its queue of connections is full."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(8):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield


@needs_whole_loopback_network
@pytest.mark.usefixtures("moved_border")
@pytest.mark.parametrize("last", [PUBLIC, "127.0.0.4"])
async def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    resolving(monkeypatch, {"hooks.example": [["127.0.0.3", last]]})
    url = receiver.url_of("hooks.example")
    with black_hole("127.0.0.3", receiver.port), black_hole("127.0.0.4", receiver.port):
        job = await deliver(queue, WebhookRequest(url, timeout=1), allow_private_addresses=False)
    if last == PUBLIC:
        assert job is None
        assert len(receiver.requests) == 1
    else:
        assert job is not None
        assert job.last_error == f"DeliveryFailed: {url} did not answer within 1 s"


@pytest.mark.usefixtures("moved_border")
@pytest.mark.parametrize(("name", "taken"), [("hooks.example", True), ("127.0.0.1", False)])
async def test_the_certificate_is_checked_for_the_name_not_for_the_address(
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    taken: bool,
) -> None:
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    resolving(monkeypatch, {"hooks.example": [[PUBLIC]]})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    async with receiving(tls=context) as receiver:
        url = receiver.url_of("hooks.example")
        job = await deliver(queue, WebhookRequest(url), allow_private_addresses=False)
    assert asked_for == ["hooks.example"]
    assert (job is None) == taken
    assert len(receiver.requests) == taken


async def test_proxies_of_the_environment_are_not_used(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        job = await deliver(queue, WebhookRequest(receiver.url), allow_private_addresses=True)
        assert job is None
        job = await deliver(queue, WebhookRequest(receiver.url), allow_private_addresses=False)
        refused(job)
        assert proxy.connections == 0
    assert len(receiver.requests) == 1


async def test_a_redirect_into_a_private_network_is_not_followed(
    queue: Queue, receiver: Receiver
) -> None:
    async with receiving() as victim:
        receiver.answer = answering("307 Temporary Redirect", headers={"Location": victim.url})
        assert "not followed" in refused(await deliver(queue, WebhookRequest(receiver.url)))
        assert victim.connections == 0


# -- a caller's client --------------------------------------------------------------------------


async def through(client: httpx.AsyncClient, queue: Queue, url: str) -> JobRecord | None:
    async with client:
        return await deliver(queue, WebhookRequest(url), worker=WebhookWorker(client))


async def test_a_callers_client_sends_with_what_it_was_given(
    queue: Queue, receiver: Receiver
) -> None:
    async with httpx.AsyncClient(
        headers={"User-Agent": "mine/1", "X-Team": "a"}, follow_redirects=True
    ) as client:
        async with WebhookWorker(client, allow_private_addresses=True) as worker:
            assert await deliver(queue, WebhookRequest(receiver.url), worker=worker) is None
            receiver.answer = answering("302 Found", headers={"Location": "/elsewhere"})
            job = await deliver(queue, WebhookRequest(receiver.url), worker=worker)
            assert "not followed" in refused(job)
        assert not client.is_closed
    first, second = receiver.requests
    assert (first.headers["user-agent"], first.headers["x-team"]) == ("mine/1", "a")
    assert second.target == "/"


async def test_a_callers_client_has_the_workers_time_out(queue: Queue, receiver: Receiver) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    receiver.answer = answer
    async with httpx.AsyncClient(timeout=None) as client:
        worker = WebhookWorker(client, default_timeout=0.1, allow_private_addresses=True)
        job = await deliver(queue, WebhookRequest(receiver.url), worker=worker)
    assert job is not None
    assert job.status is JobStatus.SCHEDULED
    assert "did not answer within 0.1 s" in str(job.last_error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:7f00:1]"])
async def test_a_callers_client_does_not_reach_private_addresses(
    queue: Queue, receiver: Receiver, host: str
) -> None:
    job = await through(httpx.AsyncClient(), queue, receiver.url_of(host))
    assert "not a public address" in refused(job)
    assert receiver.connections == 0


@needs_whole_loopback_network
@pytest.mark.usefixtures("moved_border")
async def test_a_callers_client_sends_nothing_where_a_name_leads_the_second_time(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client resolves by itself, so its connection is made; nothing is sent over it."""
    resolving(monkeypatch, {"hooks.example": [[PUBLIC], [PRIVATE]]})
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, PRIVATE, 0)
    port = server.sockets[0].getsockname()[1]
    job = await through(httpx.AsyncClient(), queue, f"http://hooks.example:{port}")
    assert f"leads to {PRIVATE}, which is not a public address" in refused(job)
    server.close()
    await server.wait_closed()
    assert received == [b""]


@pytest.mark.usefixtures("moved_border")
async def test_a_callers_client_reaches_public_addresses_and_keeps_its_connections(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, {"hooks.example": [[PUBLIC]]})
    async with httpx.AsyncClient() as client:
        worker = WebhookWorker(client)
        for _ in range(2):
            request = WebhookRequest(receiver.url_of("hooks.example"))
            assert await deliver(queue, request, worker=worker) is None
    assert (len(receiver.requests), receiver.connections) == (2, 1)


@pytest.mark.usefixtures("moved_border")
async def test_a_callers_client_with_a_proxy_has_to_be_allowed_everything(
    queue: Queue, receiver: Receiver
) -> None:
    async with receiving(host=PUBLIC) as proxy:
        url = receiver.url_of("localhost")
        job = await through(httpx.AsyncClient(proxy=proxy.url), queue, url)
        assert "uses a proxy" in refused(job)
        assert proxy.requests == []
        async with httpx.AsyncClient(proxy=proxy.url) as client:
            worker = WebhookWorker(client, allow_private_addresses=True)
            assert await deliver(queue, WebhookRequest(url), worker=worker) is None
        assert [received.target for received in proxy.requests] == [f"{url}/"]
    assert receiver.connections == 0


@pytest.mark.usefixtures("moved_border")
async def test_a_connection_of_the_callers_own_to_an_unknown_name_is_not_used(
    queue: Queue, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = receiver.url_of("internal.example")
    async with httpx.AsyncClient() as client:
        with monkeypatch.context() as resolver:
            resolving(resolver, {"internal.example": [[PUBLIC]]})
            await client.get(url)
        job = await deliver(queue, WebhookRequest(url), worker=WebhookWorker(client))
    assert "give the worker a client of its own" in refused(job)
    assert len(receiver.requests) == 1


async def test_a_mock_transport_needs_no_resolver(queue: Queue) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204 if request.url.path == "/a" else 404, text="no such hook")

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    worker = WebhookWorker(client)
    request = WebhookRequest("https://hooks.invalid/a")
    assert await deliver(queue, request, worker=worker) is None
    job = await deliver(queue, WebhookRequest("https://hooks.invalid/b"), worker=worker)
    assert refused(job) == "https://hooks.invalid answered 404 Not Found: 'no such hook'"
    assert [str(request.url) for request in seen] == [
        "https://hooks.invalid/a",
        "https://hooks.invalid/b",
    ]
    await client.aclose()


async def test_something_else_than_a_client_is_refused() -> None:
    with pytest.raises(TypeError, match=r"client must be an httpx.AsyncClient"):
        WebhookWorker(httpx.Client)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol])
async def test_what_a_callers_client_says_shows_no_more_of_a_url_than_its_host(
    queue: Queue, caplog: pytest.LogCaptureFixture, kind: type[httpx.TransportError]
) -> None:
    caplog.set_level("DEBUG", "taquba")
    text = "no way to {} through http://me:hunter2@proxy.example:3128"

    def fail(request: httpx.Request) -> httpx.Response:
        raise kind(text.format(request.url))

    url = "https://hooks.example/services/T0/hunter2?token=hunter2"
    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
        worker = WebhookWorker(client, allow_private_addresses=True)
        job = await deliver(queue, WebhookRequest(url), worker=worker)
    assert job is not None
    assert "no way to https://hooks.example/*** through" in str(job.last_error)
    assert "hunter2" not in str(job.last_error) + caplog.text


def test_a_request_shows_no_more_of_its_url_than_the_host() -> None:
    request = WebhookRequest(
        "https://hooks.example/T0/hunter2", headers={"Authorization": "Bearer hunter2"}
    )
    assert repr(request).startswith("WebhookRequest(url='https://hooks.example/***'")
    assert "hunter2" not in repr(request) + repr(webhook_enqueue_request("q", request, b""))
