"""Requesting a delivery: as a separate job, or as part of another commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from taquba import EnqueueRequest, EnqueueResult, InvalidArgumentType, JobOptions, KvKey, Store
from taquba_webhooks._request import WebhookRequest, job_headers


class WebhookOptions(JobOptions, total=False):
    """Options of the delivery's job, as for `taquba.Queue.enqueue`."""

    kv_writes: Mapping[KvKey, bytes] | None


async def enqueue_webhook(
    store: Store,
    queue: str,
    request: WebhookRequest,
    body: bytes,
    **options: Unpack[WebhookOptions],
) -> EnqueueResult:
    """Enqueue a delivery; it is durable when this returns.

    Args:
        store: A handle on the store: a `taquba.Service` of any process, or a `taquba.Queue`.
        queue: Name of the queue whose jobs a `WebhookWorker` runs.
        request: What to send, and where.
        body: Sent as it is; name its type in a ``Content-Type`` header.
        **options: As for `taquba.Queue.enqueue`.

    Returns:
        The job's id, which receivers get as ``Webhook-Id``, and whether the job is new.
    """
    (result,) = await store.enqueue_batch(
        [webhook_enqueue_request(queue, request, body, **options)]
    )
    return result


def webhook_enqueue_request(
    queue: str, request: WebhookRequest, body: bytes, **options: Unpack[WebhookOptions]
) -> EnqueueRequest:
    """Make a delivery that is enqueued in the commit of another change.

    The result is for `taquba.SettlementEffects`, so that a job's end and its notification are one
    commit, or for `taquba.Queue.enqueue_batch`. The arguments are those of `enqueue_webhook`.
    """
    if not isinstance(request, WebhookRequest):
        raise InvalidArgumentType(f"request must be a WebhookRequest, not {type(request).__name__}")
    return EnqueueRequest(queue, body, headers=job_headers(request), **options)
