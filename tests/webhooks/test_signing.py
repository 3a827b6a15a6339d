"""Signatures, checked by the library that Standard Webhooks gives to receivers."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from taquba import InvalidArgument, InvalidArgumentType, Queue, QueueConfig
from taquba.testing import OpenQueue, drain
from taquba_webhooks import WebhookRequest, WebhookWorker, enqueue_webhook
from taquba_webhooks._signing import Signer
from tests.webhooks.support import Received, Receiver, answering, deliver, receiving


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def verify(secret: str, received: Received) -> None:
    Webhook(secret).verify(received.body, received.headers, json_parse=False)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def test_a_receiver_can_verify_a_delivery(queue: Queue, receiver: Receiver) -> None:
    secret = new_secret()
    body = '{"ü": 1}'.encode()
    await deliver(queue, WebhookRequest(receiver.url), body, signing_secret=secret)
    (received,) = receiver.requests
    verify(secret, received)
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    with pytest.raises(WebhookVerificationError):
        verify(new_secret(), received)
    received.body += b" "
    with pytest.raises(WebhookVerificationError):
        verify(secret, received)


async def test_several_secrets_sign_for_a_change_over(queue: Queue, receiver: Receiver) -> None:
    old, new = new_secret(), new_secret()
    await deliver(queue, WebhookRequest(receiver.url), signing_secret=[new, old])
    (received,) = receiver.requests
    verify(old, received)
    verify(new, received)
    assert len(received.headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize("header", [None, "X-Delivery"])
async def test_a_signed_delivery_has_its_id_whatever_the_header_is(
    queue: Queue, receiver: Receiver, header: str | None
) -> None:
    secret = new_secret()
    await deliver(
        queue, WebhookRequest(receiver.url), signing_secret=secret, delivery_id_header=header
    )
    verify(secret, receiver.requests[0])


async def test_each_attempt_is_signed_anew_for_the_same_id(
    open_queue: OpenQueue, receiver: Receiver
) -> None:
    queue = await open_queue(default_config=QueueConfig(retry_backoff_base=0))
    receiver.answer = answering("500 Internal Server Error")
    secret = new_secret()
    job = await enqueue_webhook(queue, "hooks", WebhookRequest(receiver.url), b"{}")
    async with WebhookWorker(signing_secret=secret, allow_private_addresses=True) as worker:
        assert await drain(queue, "hooks", worker) == 3
    for received in receiver.requests:
        verify(secret, received)
        assert received.headers["webhook-id"] == job.id


def test_the_example_of_the_specification() -> None:
    signer = Signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(
    key=st.binary(min_size=1, max_size=64), body=st.text(), prefix=st.sampled_from(["whsec_", ""])
)
def test_any_key_and_body_can_be_verified(key: bytes, body: str, prefix: str) -> None:
    encoded = base64.b64encode(key).decode()
    now = int(time.time())
    for secret in (prefix + encoded, prefix + encoded.rstrip("=")):
        headers = Signer(secret).sign("id", now, body.encode())
        Webhook(key).verify(body, headers, json_parse=False)


async def test_a_body_that_is_no_text_is_signed(queue: Queue, receiver: Receiver) -> None:
    await deliver(queue, WebhookRequest(receiver.url), b"\xff\x00", signing_secret=new_secret())
    assert receiver.requests[0].headers["webhook-signature"].startswith("v1,")


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no base64": ("whsec_not base64!", InvalidArgument, "must be base64"),
    "one character": ("whsec_A", InvalidArgument, "must be base64"),
    "not ASCII": ("whsec_ä", InvalidArgument, "must be base64"),
    "empty": ("", InvalidArgument, "must be base64"),
    "only the prefix": ("whsec_", InvalidArgument, "must be base64"),
    "no secrets": ([], InvalidArgument, "empty list"),
    "one of them is empty": (["whsec_QUJD", ""], InvalidArgument, "must be base64"),
    "bytes": (b"whsec_QUJD", InvalidArgumentType, "not bytes"),
    "bytes in a list": ([b"QUJD"], InvalidArgumentType, "not bytes"),
    "number": (5, InvalidArgumentType, "not int"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_secrets_are_refused_and_not_shown(case: tuple[Any, type[Exception], str]) -> None:
    secret, kind, message = case
    with pytest.raises(kind, match=message) as caught:
        WebhookWorker(signing_secret=secret)
    assert "not base64!" not in str(caught.value)
