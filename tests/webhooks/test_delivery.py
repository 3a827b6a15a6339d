"""What is sent, and what becomes of the job, on a real server with faults."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import trustme

from taquba import InvalidArgument, JobRecord, JobStatus, Queue, QueueConfig
from taquba.testing import MockClock, OpenQueue, drain
from taquba_webhooks import WebhookRequest, WebhookWorker, enqueue_webhook
from tests.webhooks.support import (
    REAL_SECONDS,
    Received,
    Receiver,
    answering,
    deliver,
    receiving,
    response,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


def retried(job: JobRecord | None) -> str:
    assert job is not None
    assert job.status is JobStatus.SCHEDULED
    assert job.last_error is not None
    return job.last_error


def dead(job: JobRecord | None) -> str:
    assert job is not None
    assert job.status is JobStatus.DEAD
    assert job.last_error is not None
    return job.last_error


# -- what is sent -------------------------------------------------------------------------------


async def test_a_delivery_is_sent_as_asked_for(queue: Queue, receiver: Receiver) -> None:
    request = WebhookRequest(
        f"{receiver.url}/hooks/é?a=1&b=%20",
        "put",
        {"Content-Type": "application/json", "X-Tenant": "t 1"},
    )
    job = await enqueue_webhook(queue, "hooks", request, b'{"a": 1}')
    async with WebhookWorker(allow_private_addresses=True) as worker:
        assert await drain(queue, "hooks", worker) == 1
    (received,) = receiver.requests
    assert (received.method, received.target) == ("PUT", "/hooks/%C3%A9?a=1&b=%20")
    assert received.body == b'{"a": 1}'
    assert received.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "taquba-webhooks",
        "content-type": "application/json",
        "content-length": "8",
        "x-tenant": "t 1",
        "webhook-id": job.id,
    }
    assert (await queue.stats("hooks")).done == 1


async def test_callers_headers_replace_the_defaults(queue: Queue, receiver: Receiver) -> None:
    headers = {"user-agent": "mine/1", "ACCEPT-ENCODING": "gzip"}
    await deliver(queue, WebhookRequest(receiver.url, headers=headers))
    (received,) = receiver.requests
    assert received.raw_head.lower().count(b"user-agent:") == 1
    assert received.headers["user-agent"] == "mine/1"
    assert received.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(("name", "expected"), [(None, None), ("X-Delivery", "the-id")])
async def test_the_header_of_the_id_can_be_chosen(
    queue: Queue, receiver: Receiver, name: str | None, expected: str | None
) -> None:
    await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"", job_id="the-id")
    async with WebhookWorker(delivery_id_header=name, allow_private_addresses=True) as worker:
        await drain(queue, "hooks", worker)
    (received,) = receiver.requests
    assert "webhook-id" not in received.headers
    assert received.headers.get("x-delivery") == expected


@pytest.mark.parametrize("name", ["X-Delivery", "x-delivery"])
async def test_a_header_that_the_id_would_replace_is_named(
    queue: Queue, receiver: Receiver, name: str
) -> None:
    request = WebhookRequest(receiver.url, headers={name: "mine"})
    reason = dead(await deliver(queue, request, delivery_id_header="X-Delivery"))
    assert "has a header 'X-Delivery', which the worker sets" in reason
    assert receiver.requests == []


@pytest.mark.parametrize("name", ["Webhook-Signature", "webhook-timestamp"])
def test_the_id_is_not_put_where_the_signature_goes(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot be '{name}'"):
        WebhookWorker(delivery_id_header=name)


async def test_connections_are_used_again(queue: Queue, receiver: Receiver) -> None:
    for _ in range(3):
        await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"")
    receiver.answer = answering("200 OK", b"thank you")
    async with WebhookWorker(allow_private_addresses=True) as worker:
        assert await drain(queue, "hooks", worker) == 3
    assert (len(receiver.requests), receiver.connections) == (3, 1)


async def test_cookies_are_not_kept(queue: Queue, receiver: Receiver) -> None:
    for _ in range(2):
        await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"")
    receiver.answer = answering("200 OK", headers={"Set-Cookie": "session=1"})
    async with WebhookWorker(allow_private_addresses=True) as worker:
        await drain(queue, "hooks", worker)
    assert all("cookie" not in received.headers for received in receiver.requests)


async def test_the_lease_covers_the_request_before_it_is_sent(
    open_queue: OpenQueue, mock_clock: MockClock, receiver: Receiver
) -> None:
    queue = await open_queue(default_config=QueueConfig(lease_duration=1))
    expiries: list[datetime] = []

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        expiries.append(await queue.lease_expiry(received.headers["webhook-id"]))
        writer.write(response("200 OK"))

    receiver.answer = answer
    await deliver(queue, WebhookRequest(receiver.url, timeout=timedelta(minutes=2)))
    await deliver(queue, WebhookRequest(receiver.url), default_timeout=90)
    seconds = [(expiry - mock_clock.now()).total_seconds() for expiry in expiries]
    assert 120 < seconds[0] < 130
    assert 90 < seconds[1] < 100


async def test_a_cancelled_delivery_is_not_sent(queue: Queue, receiver: Receiver) -> None:
    job = await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"")
    claim = await queue.claim("hooks")
    assert claim is not None
    await queue.cancel(job.id)
    await queue.nack(claim, "interrupted")
    assert await queue.wake_scheduled(job.id)
    async with WebhookWorker(allow_private_addresses=True) as worker:
        await drain(queue, "hooks", worker)
    assert dead(await queue.get_job(job.id)) == "cancelled on request"
    assert receiver.requests == []


# -- what the status decides --------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "204 No Content", "299 Fine"])
async def test_2xx_acknowledges(queue: Queue, receiver: Receiver, status: str) -> None:
    receiver.answer = answering(status)
    assert await deliver(queue, WebhookRequest(receiver.url)) is None
    assert (await queue.stats("hooks")).done == 1


@pytest.mark.parametrize(
    "status",
    ["500 Internal Server Error", "503 Service Unavailable", "408 Request Timeout",
     "429 Too Many Requests"],
)  # fmt: skip
async def test_answers_that_may_change_are_retried(
    queue: Queue, receiver: Receiver, status: str
) -> None:
    receiver.answer = answering(status, b"come back later")
    job = await deliver(queue, WebhookRequest(f"{receiver.url}/path?token=secret"))
    assert retried(job) == f"DeliveryFailed: {receiver.url} answered {status}: 'come back later'"


async def test_retries_follow_the_queues_backoff_and_keep_the_id(
    open_queue: OpenQueue, mock_clock: MockClock, receiver: Receiver
) -> None:
    queue = await open_queue(
        default_config=QueueConfig(max_attempts=3, retry_backoff_base=10, retry_jitter=0)
    )
    statuses = iter(["500 Internal Server Error", "502 Bad Gateway", "200 OK"])

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(next(statuses)))

    receiver.answer = answer
    job = await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"")
    async with WebhookWorker(allow_private_addresses=True) as worker:
        for wait in (10, 20, 0):
            assert await drain(queue, "hooks", worker) == 1
            await mock_clock.advance(wait)
    assert [received.headers["webhook-id"] for received in receiver.requests] == [job.id] * 3
    assert (await queue.stats("hooks")).done == 1


async def test_attempts_run_out(open_queue: OpenQueue, receiver: Receiver) -> None:
    queue = await open_queue(default_config=QueueConfig(max_attempts=1))
    receiver.answer = answering("503 Service Unavailable", headers={"Retry-After": "60"})
    assert "answered 503" in dead(await deliver(queue, WebhookRequest(receiver.url)))


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_retry_after_in_seconds_is_honoured(
    queue: Queue, mock_clock: MockClock, receiver: Receiver, status: str
) -> None:
    receiver.answer = answering(status, headers={"Retry-After": "120"})
    job = await deliver(queue, WebhookRequest(receiver.url))
    assert status in retried(job)
    assert job is not None
    assert job.run_at == mock_clock.now() + timedelta(seconds=120)


async def test_retry_after_as_a_date_is_honoured(
    queue: Queue, mock_clock: MockClock, receiver: Receiver
) -> None:
    # The receiver's clock and this machine's are real; the queue's stands still in 2030.
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    receiver.answer = answering("429 Too Many Requests", headers={"Retry-After": moment})
    job = await deliver(queue, WebhookRequest(receiver.url))
    retried(job)
    assert job is not None
    assert job.run_at is not None
    assert 290 <= (job.run_at - mock_clock.now()).total_seconds() <= 300


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone", "499 Odd"]
)
async def test_other_4xx_dead_letter_with_a_preview_of_the_body(
    queue: Queue, receiver: Receiver, status: str
) -> None:
    receiver.answer = answering(status, b"no\r\nsuch \xff hook")
    reason = dead(await deliver(queue, WebhookRequest(f"{receiver.url}/path?token=secret")))
    named = status.removesuffix(" Odd")
    assert reason == f"{receiver.url} answered {named}: 'no\\r\\nsuch � hook'"


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect",
                                    "308 Permanent Redirect", "304 Not Modified"])  # fmt: skip
async def test_redirects_are_not_followed(queue: Queue, receiver: Receiver, status: str) -> None:
    receiver.answer = answering(status, headers={"Location": "/elsewhere"})
    reason = dead(await deliver(queue, WebhookRequest(receiver.url)))
    assert "redirects to '/elsewhere' are not followed" in reason
    assert [received.target for received in receiver.requests] == ["/"]


# -- faults -------------------------------------------------------------------------------------


async def test_slow_headers_time_out(queue: Queue, receiver: Receiver) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        # A time-out for each read alone would never end.
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: yes\r\n\r\n" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    receiver.answer = answer
    job = await deliver(queue, WebhookRequest(receiver.url, timeout=0.2))
    assert retried(job) == f"DeliveryFailed: {receiver.url} did not answer within 0.2 s"


async def test_a_silent_receiver_times_out(queue: Queue, receiver: Receiver) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(REAL_SECONDS)

    receiver.answer = answer
    job = await deliver(queue, WebhookRequest(receiver.url), default_timeout=0.1)
    assert "did not answer within 0.1 s" in retried(job)


def endless(status: str, chunk: bytes, pause: float) -> Receiver:
    receiver = Receiver()

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        while True:
            writer.write(chunk)
            await writer.drain()
            receiver.bytes_sent += len(chunk)
            await asyncio.sleep(pause)

    receiver.answer = answer
    return receiver


@pytest.mark.parametrize("pause", [0.02, 30], ids=["drops", "silence"])
async def test_the_status_decides_though_the_body_is_slow(
    queue: Queue, receiver: Receiver, pause: float
) -> None:
    receiver.answer = endless("200 OK", b"x", pause).answer
    assert await deliver(queue, WebhookRequest(receiver.url, timeout=0.3)) is None
    receiver.answer = endless("400 Bad Request", b"x", pause).answer
    reason = dead(await deliver(queue, WebhookRequest(receiver.url, timeout=0.3)))
    assert "answered 400 Bad Request: 'x" in reason
    assert (await queue.stats("hooks")).done == 1


async def test_a_slow_body_is_not_waited_for_as_long_as_an_answer(
    queue: Queue, receiver: Receiver
) -> None:
    receiver.answer = endless("200 OK", b"x", 0.1).answer
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert await deliver(queue, WebhookRequest(receiver.url, timeout=600)) is None
    assert loop.time() - begin < 10


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
async def test_an_endless_body_is_read_up_to_a_bound(queue: Queue, status: str) -> None:
    megabyte = b"x" * 1024 * 1024
    source = endless(status, megabyte, 0)
    async with receiving(source.answer) as receiver:
        job = await deliver(queue, WebhookRequest(receiver.url))
        if status == "200 OK":
            assert job is None
        else:
            reason = dead(job)
            assert reason.endswith("xxx' (shortened)")
            assert len(reason) < 700
    # What the buffers of the kernel and of the transport took, not what the worker read.
    assert source.bytes_sent < 50 * 1024 * 1024


async def test_huge_headers_are_refused(queue: Queue, receiver: Receiver) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Header: " + b"x" * 4096 + b"\r\n")
            await writer.drain()

    receiver.answer = answer
    assert "gave no answer: RemoteProtocolError" in retried(
        await deliver(queue, WebhookRequest(receiver.url))
    )


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200"], ids=["at once", "within the answer"])
async def test_a_reset_is_retried(queue: Queue, receiver: Receiver, sent: bytes) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        # Closing with this option set sends a reset.
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        raise ConnectionError

    receiver.answer = answer
    reason = retried(await deliver(queue, WebhookRequest(receiver.url)))
    assert reason.startswith(f"DeliveryFailed: {receiver.url} gave no answer: ")


async def test_an_answer_that_is_no_http_is_retried(queue: Queue, receiver: Receiver) -> None:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")

    receiver.answer = answer
    assert "gave no answer: RemoteProtocolError" in retried(
        await deliver(queue, WebhookRequest(receiver.url))
    )


async def test_a_refused_connection_is_retried(queue: Queue) -> None:
    async with receiving() as receiver:
        url = receiver.url
    assert f"{url} gave no answer: ConnectionRefusedError" in retried(
        await deliver(queue, WebhookRequest(url))
    )


@pytest.mark.parametrize("private", [True, False])
async def test_an_unknown_name_is_retried(queue: Queue, private: bool) -> None:
    job = await deliver(
        queue, WebhookRequest("http://nowhere.invalid/"), allow_private_addresses=private
    )
    assert "http://nowhere.invalid gave no answer: gaierror" in retried(job)


# -- TLS ----------------------------------------------------------------------------------------


def tls_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_an_unknown_authority_is_not_trusted(queue: Queue) -> None:
    async with receiving(tls=tls_server(trustme.CA(), "127.0.0.1")) as receiver:
        job = await deliver(queue, WebhookRequest(receiver.url))
    assert "SSLCertVerificationError" in retried(job)
    assert receiver.requests == []


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("hooks.example", False)])
async def test_the_certificate_must_be_for_the_name(
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    trusted: bool,
) -> None:
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    async with receiving(tls=tls_server(authority, name)) as receiver:
        job = await deliver(queue, WebhookRequest(receiver.url_of("localhost")))
    if trusted:
        assert job is None
        assert len(receiver.requests) == 1
    else:
        assert "SSLCertVerificationError" in retried(job)
        assert receiver.requests == []


# -- a caller's client --------------------------------------------------------------------------


async def raise_for_status(response: httpx.Response) -> None:
    response.raise_for_status()


@pytest.mark.parametrize("status", ["404 Not Found", "302 Found", "503 Service Unavailable"])
async def test_a_hook_of_the_client_that_raises_for_a_status_says_no_more_than_the_status(
    queue: Queue, receiver: Receiver, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    location = {"Location": "https://h/secret?a=secret", "Retry-After": "7"}
    receiver.answer = answering(status, headers=location)
    async with httpx.AsyncClient(event_hooks={"response": [raise_for_status]}) as client:
        request = WebhookRequest(f"{receiver.url}/secret")
        job = await deliver(queue, request, client=client)
    assert job is not None
    assert job.status is (JobStatus.SCHEDULED if status.startswith("503") else JobStatus.DEAD)
    assert f"{receiver.url} answered {status}" in str(job.last_error)
    assert "secret" not in str(job.last_error) + caplog.text


async def test_what_a_client_raises_shows_no_path_of_the_url(
    queue: Queue, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(request: httpx.Request) -> None:
        raise ValueError(f"not {request.url}")

    async with httpx.AsyncClient(event_hooks={"request": [check]}) as client:
        job = await deliver(queue, WebhookRequest(f"{receiver.url}/secret"), client=client)
    why = f"{receiver.url} gave no answer: ValueError: not {receiver.url}/***"
    assert retried(job) == f"DeliveryFailed: {why}"
    assert "secret" not in caplog.text


# -- jobs that cannot be sent -------------------------------------------------------------------

BAD_JOBS: dict[str, tuple[dict[str, str], str]] = {
    "no url": ({}, "no header 'webhook.url'"),
    "other scheme": ({"webhook.url": "file:///etc/passwd"}, "http:// or https://"),
    "credentials": ({"webhook.url": "http://me:secret@h/"}, "contains credentials"),
    "method": ({"webhook.url": "http://h", "webhook.method": "TRACE"}, "'TRACE'"),
    "time-out": ({"webhook.url": "http://h", "webhook.timeout_ms": "-1"}, "'-1'"),
    "no time": ({"webhook.url": "http://h", "webhook.timeout_ms": "0"}, "at least 0.001 s"),
    "injection": ({"webhook.url": "http://h", "http.X": "a\r\nB: c"}, "'X'.*line break"),
    "name": ({"webhook.url": "http://h", "http.X\r\nB": "c"}, "not a valid name of an HTTP header"),
    "host": ({"webhook.url": "http://h", "http.Host": "other"}, "'Host' belongs to"),
}


@pytest.mark.parametrize("case", BAD_JOBS.values(), ids=BAD_JOBS)
async def test_a_job_that_cannot_be_sent_is_dead_lettered_with_the_reason(
    queue: Queue, case: tuple[dict[str, str], str]
) -> None:
    headers, message = case
    job = await queue.enqueue("hooks", b"", headers=headers)
    async with WebhookWorker(allow_private_addresses=True) as worker:
        assert await drain(queue, "hooks", worker) == 1
    reason = dead(await queue.get_job(job.id))
    assert reason.startswith("the job is not a webhook that can be sent: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason)
    assert "secret" not in reason
