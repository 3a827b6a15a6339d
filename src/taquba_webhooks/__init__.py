"""taquba_webhooks: HTTP deliveries as durable jobs of a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _worker      `WebhookWorker`: makes the deliveries that the jobs of a queue request
    _enqueueing  requesting a delivery: as a separate job, or as part of another commit
    _sending     sending one HTTP request: over connections that the worker owns
    _verdict     how a receiver's response decides about the delivery
    _addresses   which addresses are public, and the addresses of a host's name
    _hosts       how many deliveries one host gets at a time, and when further ones are tried again
    _request     the HTTP request that a job represents: checked when it is created
    _signing     signatures of Standard Webhooks, symmetric version ``v1``
"""

from taquba_webhooks._enqueueing import WebhookOptions, enqueue_webhook, webhook_enqueue_request
from taquba_webhooks._request import WebhookRequest
from taquba_webhooks._verdict import DeliveryFailed
from taquba_webhooks._worker import WebhookWorker

__all__ = [
    "DeliveryFailed",
    "WebhookOptions",
    "WebhookRequest",
    "WebhookWorker",
    "enqueue_webhook",
    "webhook_enqueue_request",
]
