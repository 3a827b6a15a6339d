"""taquba_webhooks: HTTP deliveries as durable jobs of a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _worker      `WebhookWorker`: delivers what the jobs of a queue ask for
    _enqueueing  asking for a delivery: as a job by itself, or as part of another commit
    _sending     sending one HTTP request: over connections that the worker owns
    _verdict     what a receiver's answer means for the delivery
    _addresses   which addresses are public, and what a host's name leads to
    _hosts       how many deliveries one host gets at a time, and when those beyond that try again
    _request     the HTTP request that a job stands for: checked when it is made
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
