"""taquba_webhooks: HTTP deliveries as durable jobs of a taquba queue.

The layers, top to bottom; each uses only those below it, and of taquba only its public names:

    _worker       `WebhookWorker`, the handler
    _enqueueing   asking for a delivery, by itself or as an effect of another commit
    _sending      one HTTP exchange, over guarded connections
    _hosts        how many deliveries a host gets at a time
    _addresses    what is a public address (pure), and name resolution
    _verdict      what an answer means (pure)
    _signing      Standard Webhooks signatures (pure)
    _request      the request, and the job headers that carry it (pure)
"""

from taquba_webhooks._enqueueing import EnqueueOptions, enqueue_webhook, webhook_enqueue_request
from taquba_webhooks._request import WebhookRequest
from taquba_webhooks._verdict import DeliveryFailed
from taquba_webhooks._worker import WebhookWorker

__all__ = [
    "DeliveryFailed",
    "EnqueueOptions",
    "WebhookRequest",
    "WebhookWorker",
    "enqueue_webhook",
    "webhook_enqueue_request",
]
