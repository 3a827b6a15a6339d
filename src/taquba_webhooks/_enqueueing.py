"""Asking for a delivery: as a job by itself, or as part of another commit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict, Unpack

from taquba import Duration, EnqueueRequest, EnqueueResult, InvalidArgumentType, KvKey, Queue
from taquba_webhooks._request import WebhookRequest, job_headers


class EnqueueOptions(TypedDict, total=False):
    """Options of the delivery's job, as for `taquba.Queue.enqueue`."""

    run_at: datetime | None
    delay: Duration | None
    priority: int | None
    max_attempts: int | None
    dedup_key: str | None
    job_id: str | None
    kv_writes: Mapping[KvKey, bytes] | None


async def enqueue_webhook(
    queue: Queue,
    name: str,
    request: WebhookRequest,
    body: bytes,
    **options: Unpack[EnqueueOptions],
) -> EnqueueResult:
    """Enqueue a delivery; it is durable when this returns.

    Args:
        queue: An open queue.
        name: Name of the queue that a `WebhookWorker` works on.
        request: What to send, and where.
        body: Sent as it is; say what it is in a ``Content-Type`` header.
        **options: As for `taquba.Queue.enqueue`.

    Returns:
        The job's id, which receivers get as ``Webhook-Id``, and whether the job is new.
    """
    (result,) = await queue.enqueue_batch([webhook_enqueue_request(name, request, body, **options)])
    return result


def webhook_enqueue_request(
    name: str, request: WebhookRequest, body: bytes, **options: Unpack[EnqueueOptions]
) -> EnqueueRequest:
    """A delivery to enqueue in one commit with something else.

    For `taquba.SettlementEffects`, so that a job's end and the news of it are one commit, and for
    `taquba.Queue.enqueue_batch`. The arguments are those of `enqueue_webhook`.
    """
    if not isinstance(request, WebhookRequest):
        raise InvalidArgumentType(f"request must be a WebhookRequest, not {type(request).__name__}")
    return EnqueueRequest(name, body, headers=job_headers(request), **options)
