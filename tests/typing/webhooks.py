"""What the type checkers accept of taquba_webhooks."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

import httpx

from taquba import EnqueueRequest, EnqueueResult, Queue, SettlementEffects, run_worker
from taquba_webhooks import (
    DeliveryFailed,
    WebhookOptions,
    WebhookRequest,
    WebhookWorker,
    enqueue_webhook,
    webhook_enqueue_request,
)


async def delivering(queue: Queue, client: httpx.AsyncClient) -> None:
    async with WebhookWorker() as worker:
        assert_type(worker, WebhookWorker)
        await run_worker(queue, "webhooks", worker, concurrency=20)
    worker = WebhookWorker(
        client,
        default_timeout=timedelta(seconds=10),
        delivery_id_header=None,
        signing_secret=["whsec_a", "whsec_b"],
        allow_private_addresses=True,
        limit_per_host=2,
    )
    await worker.aclose()
    WebhookWorker(signing_secret="whsec_a", delivery_id_header="X-Delivery")

    WebhookWorker(httpx.Client())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebhookWorker(signing_secret=b"a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebhookWorker(client, 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asking(queue: Queue, options: WebhookOptions) -> None:
    request = WebhookRequest("https://h", "PUT", {"X-A": "1"}, timedelta(seconds=5))
    assert_type(await enqueue_webhook(queue, "webhooks", request, b""), EnqueueResult)
    await enqueue_webhook(queue, "webhooks", request, b"", delay=5, dedup_key="k", priority=1)
    await enqueue_webhook(queue, "webhooks", request, b"", **options)
    staged = webhook_enqueue_request("webhooks", request, b"", max_attempts=10)
    assert_type(staged, EnqueueRequest)
    SettlementEffects(enqueues=[staged])

    await enqueue_webhook(queue, "webhooks", "https://h", b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await enqueue_webhook(queue, "webhooks", request, "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    webhook_enqueue_request("webhooks", request, b"", headers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WebhookRequest("https://h", headers={"X-A": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    request.url = "https://other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def failing(error: DeliveryFailed) -> None:
    assert_type(error.permanent, bool)
