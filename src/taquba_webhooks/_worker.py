"""`WebhookWorker`: makes the deliveries that the jobs of a queue request."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import httpx

from taquba import (
    Duration,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    LeaseHandle,
    PermanentFailure,
    TaqubaError,
)
from taquba.extending import describe
from taquba.extending.checks import at_least_one
from taquba_webhooks._hosts import HostLimits
from taquba_webhooks._request import (
    SIGNING_HEADERS,
    check_header_name,
    parse_url,
    request_of,
    shown_url,
    timeout_ms,
)
from taquba_webhooks._sending import (
    ClientSender,
    Outgoing,
    PooledSender,
    Reply,
    Sender,
)
from taquba_webhooks._signing import Signer
from taquba_webhooks._verdict import Answer, DeliveryFailed, failure

_SETTLEMENT_SECONDS: Final = 5
"""How much longer than the request's timeout the lease lasts, to write the outcome."""

_BODY_BYTES: Final = 16 * 1024
"""How much of a response's body is read: enough to show, and to reach the end of a small one,
whose connection can then be used again."""

_URL: Final = re.compile(r"https?://[^\s'\"<>]+")

_BODY_SECONDS: Final = 2.0
"""How long to wait for a body: the status has already decided."""


class WebhookWorker:
    """A handler that delivers the jobs of `enqueue_webhook` and `webhook_enqueue_request`.

        async with WebhookWorker(signing_secret="whsec_...") as worker:
            await run_worker(queue, "webhooks", worker, concurrency=20)

    A 2xx response acknowledges the job. 5xx, 408, 429, timeouts and failing connections retry it,
    after ``Retry-After`` if the response has one, otherwise after the queue's backoff. After any
    other response, or if it cannot be sent, the job is dead-lettered with the reason.

    Args:
        client: Sends the requests; the caller must close it. By default the worker has its own
            connections, which ``async with`` or `aclose` closes.
        default_timeout: Seconds for a whole delivery, from the look-up of the name to the status of
            the response, if the request has no `timeout`; at most an hour.
        delivery_id_header: Name of the header with the job's id, which is the same for every
            attempt; None sends none. Signed deliveries have ``Webhook-Id`` in any case.
        signing_secret: Signs deliveries according to Standard Webhooks. Base64, with or without
            ``whsec_`` before it; a list signs with each secret, so that receivers can switch to a
            new one.
        allow_private_addresses: Also deliver to addresses that are not public: those of this
            machine, of its network, and of its cloud's metadata service.
        limit_per_host: Deliveries of this process to one host at the same time. Further ones are
            snoozed, so that a slow receiver does not occupy every worker; keep it below the
            `concurrency` of the worker loop.

    Raises:
        InvalidArgument: A value cannot be used.
        InvalidArgumentType: A value has the wrong type.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        default_timeout: Duration = 30,
        delivery_id_header: str | None = "Webhook-Id",
        signing_secret: str | list[str] | None = None,
        allow_private_addresses: bool = False,
        limit_per_host: int = 4,
    ) -> None:
        at_least_one(limit_per_host, "limit_per_host")
        if delivery_id_header is not None:
            check_header_name(delivery_id_header)
            if delivery_id_header.lower() in SIGNING_HEADERS:
                raise InvalidArgument(
                    f"delivery_id_header cannot be {delivery_id_header!r}, which signs a delivery"
                )
        self._default_timeout = timeout_ms(default_timeout, "default_timeout") / 1000
        self._delivery_id_header = delivery_id_header
        self._signer = None if signing_secret is None else Signer(signing_secret)
        self._hosts = HostLimits(limit_per_host)
        self._sender: Sender
        if client is None:
            self._sender = PooledSender(allow_private_addresses=allow_private_addresses)
        elif isinstance(client, httpx.AsyncClient):
            self._sender = ClientSender(client, allow_private_addresses=allow_private_addresses)
        else:
            raise InvalidArgumentType(f"client must be an httpx.AsyncClient, not {client!r}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the worker's own connections; a caller's client stays open."""
        await self._sender.aclose()

    async def process(self, job: JobRecord, lease: LeaseHandle) -> None:
        """Make one attempt at a delivery. Called by the worker loop.

        Raises:
            PermanentFailure: It cannot succeed.
            DeliveryFailed: It failed, and may succeed the next time.
            RetryAfter: The same, and the receiver says when to try again.
            Snooze: The host has as many deliveries under way as the worker allows.
            ClaimLost: The job was taken back before anything was sent.
            CancelRequested: The job was asked to cancel before anything was sent.
        """
        outgoing = self._outgoing(job)
        with self._hosts.place(outgoing.url.host):
            lease.ensure_at_least(outgoing.timeout + _SETTLEMENT_SECONDS)
            answer = await self._exchange(outgoing)
        failed = failure(_origin(outgoing.url), answer, datetime.now(UTC))
        if failed is not None:
            raise failed

    def _outgoing(self, job: JobRecord) -> Outgoing:
        try:
            request = request_of(job.headers)
        except (InvalidArgument, InvalidArgumentType) as error:
            raise PermanentFailure(f"the job is not a webhook that can be sent: {error}") from None
        # Bodies are read as they are sent, so they should not be compressed.
        headers = httpx.Headers({"Accept-Encoding": "identity"})
        headers.update(request.headers)
        if (name := self._delivery_id_header) is not None:
            if name.lower() in map(str.lower, request.headers):
                raise PermanentFailure(
                    f"the request has a header {name!r}, which the worker sets "
                    "(delivery_id_header): leave it out, or choose another name there"
                )
            headers[name] = job.id
        if self._signer is not None:
            # Receivers compare it with their own clock, so it is never a virtual one.
            headers.update(self._signer.sign(job.id, int(time.time()), job.payload))
        timeout = request.timeout
        return Outgoing(
            request.method,
            parse_url(request.url),
            headers,
            job.payload,
            self._default_timeout if timeout is None else timeout_ms(timeout, "timeout") / 1000,
        )

    async def _exchange(self, outgoing: Outgoing) -> Answer:
        """Send a request; the status of the response decides, whatever happens to its body."""
        answer: Answer | None = None
        body = bytearray()
        limit = asyncio.timeout(outgoing.timeout)
        try:
            async with limit, self._sender.send(outgoing) as reply:
                answer = _answer(reply.status, reply.headers)
                _hurry(limit)
                await _read(reply, body)
        except TaqubaError:
            raise
        except httpx.HTTPStatusError as error:
            # Of a hook of the client's: it says no more than the status does.
            answer = _answer(error.response.status_code, error.response.headers)
        except Exception as error:
            if answer is None:
                why = _why(error, outgoing.timeout if limit.expired() else None)
                # An exception of a client, or of its hook, may show the whole URL.
                raise DeliveryFailed(f"{_origin(outgoing.url)} {why}") from None
        return answer._replace(body=bytes(body))


def _answer(status: int, headers: httpx.Headers) -> Answer:
    return Answer(status, retry_after=headers.get("Retry-After"), location=headers.get("Location"))


def _hurry(limit: asyncio.Timeout) -> None:
    """Leave at most `_BODY_SECONDS` of a timeout."""
    soon = asyncio.get_running_loop().time() + _BODY_SECONDS
    limit.reschedule(min(limit.when() or soon, soon))


async def _read(reply: Reply, body: bytearray) -> None:
    async with aclosing(reply.body) as chunks:
        async for chunk in chunks:
            body += chunk[: _BODY_BYTES - len(body)]
            if len(body) == _BODY_BYTES:
                return


def _origin(url: httpx.URL) -> str:
    """The part of a URL that may be shown: paths and queries often hold tokens."""
    return f"{url.scheme}://{url.netloc.decode()}"


def _why(error: BaseException, timed_out_after: float | None) -> str:
    if timed_out_after is not None:
        return f"did not answer within {timed_out_after:g} s"
    # Libraries say "all connection attempts failed"; the exception that they caught says why.
    while isinstance(cause := error.__cause__ or error.__context__, Exception):
        error = cause
    text = _URL.sub(lambda url: shown_url(url[0]), describe(error))
    return f"gave no answer: {text}"
