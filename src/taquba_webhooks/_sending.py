"""Sending one HTTP request: over connections that the worker owns, or through a caller's client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, Protocol, cast

import httpcore
import httpx

from taquba import PermanentFailure
from taquba_webhooks._addresses import check_public, public_addresses

_KEPT_CONNECTIONS: Final = 20
_KEPT_SECONDS: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}

_HEADERS: Final = {"Accept": "*/*", "User-Agent": "taquba-webhooks"}


class Outgoing(NamedTuple):
    """A request in the form in which it is sent."""

    method: str
    url: httpx.URL
    headers: httpx.Headers
    body: bytes
    timeout: float


class Reply(NamedTuple):
    """The head of a response, and its body as it arrives, not decoded."""

    status: int
    headers: httpx.Headers
    body: AsyncGenerator[bytes, None]


class Sender(Protocol):
    """Sends requests."""

    def send(self, outgoing: Outgoing) -> AbstractAsyncContextManager[Reply]:
        """Send a request; the response's body can be read until the context ends."""
        ...

    async def aclose(self) -> None:
        """Close what the sender owns."""
        ...


class PooledSender:
    """Connections of the worker's own.

    They use no proxy, keep no cookies, follow no redirects, and log no URL. Unless
    `allow_private_addresses` is set, they lead only to public addresses.
    """

    def __init__(self, *, allow_private_addresses: bool) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            # Worker loops limit how many deliveries run.
            max_connections=None,
            max_keepalive_connections=_KEPT_CONNECTIONS,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=None if allow_private_addresses else _PublicNetwork(),
        )

    @asynccontextmanager
    async def send(self, outgoing: Outgoing) -> AsyncGenerator[Reply, None]:
        """Send a request."""
        method, url, _, content, timeout = outgoing
        headers = httpx.Headers(_HEADERS)
        headers.update(outgoing.headers)
        # It adds Host, and Content-Length if necessary.
        request = httpx.Request(method, url, headers=headers, content=content)
        async with self._pool.stream(
            method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=content,
            extensions={"timeout": httpx.Timeout(timeout).as_dict()},
        ) as response:
            body = cast("AsyncGenerator[bytes, None]", response.aiter_stream())
            yield Reply(response.status, httpx.Headers(response.headers), body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


class _PublicNetwork(httpcore.AsyncNetworkBackend):
    """A network of public addresses only.

    A name is resolved once, and the connection is made to an address that was checked, so a later
    change of the name server's answer has no effect. ``Host`` and the certificate check still use
    the name.
    """

    def __init__(self) -> None:
        # Without anyio, httpcore has a class of this name that cannot be instantiated.
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await public_addresses(host, port)
        # Each address gets a share of the time: a broken route to the first may swallow every
        # packet.
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(
                    address, port, share, local_address, socket_options
                )
        return await self._network.connect_tcp(
            addresses[-1], port, share, local_address, socket_options
        )


class ClientSender:
    """A caller's client, with its certificates, its limits, its authentication.

    Unless `allow_private_addresses` is set, each request checks the connection that it gets, and
    sends nothing over one that leads to an address that is not public.
    """

    def __init__(self, client: httpx.AsyncClient, *, allow_private_addresses: bool) -> None:
        self._client = client
        self._guarded = not allow_private_addresses

    @asynccontextmanager
    async def send(self, outgoing: Outgoing) -> AsyncGenerator[Reply, None]:
        """Send a request."""
        extensions = {"trace": await _guard(outgoing.url)} if self._guarded else None
        async with self._client.stream(
            outgoing.method,
            outgoing.url,
            headers=outgoing.headers,
            content=outgoing.body,
            timeout=outgoing.timeout,
            follow_redirects=False,
            extensions=extensions,
        ) as response:
            # Mocks answer with a complete body. Other bodies are not decompressed: a few bytes may
            # expand to any number.
            whole = response.is_stream_consumed
            chunks = response.aiter_bytes() if whole else response.aiter_raw()
            body = cast("AsyncGenerator[bytes, None]", chunks)
            yield Reply(response.status_code, response.headers, body)

    async def aclose(self) -> None:
        """Do nothing: the owner of the client closes it."""


async def _guard(url: httpx.URL) -> _ConnectionGuard:
    host = url.raw_host.decode()
    try:
        await public_addresses(host, url.port or _PORTS[url.scheme])
    except OSError:
        # Perhaps only the client's transport knows the name, as a mock does. Then the request must
        # make a new connection; one that the caller's own requests have opened is refused.
        return _ConnectionGuard(host, checked=False)
    return _ConnectionGuard(host, checked=True)


class _ConnectionGuard:
    """Trace of one request, called by httpcore at each step; its exceptions end the request."""

    def __init__(self, host: str, *, checked: bool) -> None:
        self._host = host
        self._checked = checked

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".connect_tcp.started") and info["host"] != self._host:
            raise PermanentFailure(
                f"the worker's client uses a proxy, which resolves {self._host!r} again: "
                "let the proxy refuse addresses that are not public, and give the worker "
                "allow_private_addresses=True"
            )
        if event.endswith(".connect_tcp.complete"):
            stream: httpcore.AsyncNetworkStream = info["return_value"]
            try:
                check_public(self._host, stream.get_extra_info("server_addr")[0])
            except PermanentFailure:
                await stream.aclose()
                raise
            self._checked = True
        elif event.endswith(".send_request_headers.started") and not self._checked:
            raise PermanentFailure(
                f"the worker's client has a connection to {self._host!r}, whose name cannot be "
                "resolved: give the worker a client of its own"
            )
