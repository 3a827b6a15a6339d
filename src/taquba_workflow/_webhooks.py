"""Ends of runs as webhooks, through taquba_webhooks."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Final

from taquba import InvalidArgument, PermanentFailure
from taquba.extending.checks import text
from taquba_workflow._effects import TerminalEffects
from taquba_workflow._termination import RunOutcome, TerminalHook

CALLBACK_URL: Final = "callback_url"


class WebhookTerminalHook(TerminalHook):
    """Sends the end of a run to the URL in the run's header ``callback_url``, if it has one.

    The delivery is a job of its own, enqueued by the commit that ends the hook's; run a
    `taquba_webhooks.WebhookWorker` on its queue. The body is JSON: ``run_id``, ``state``,
    ``step_number``, ``reason``, ``ended_at`` (ISO 8601, UTC), and ``result`` in Base64 or null.
    Needs the extra ``taquba-workflow[webhooks]``.

    Args:
        queue_name: Queue of the deliveries.

    Raises:
        ImportError: taquba_webhooks is not installed.
    """

    def __init__(self, queue_name: str) -> None:
        text(queue_name, "queue_name")
        try:
            import taquba_webhooks
        except ImportError as error:
            raise ImportError(
                "WebhookTerminalHook needs taquba-webhooks: pip install 'taquba-workflow[webhooks]'"
            ) from error
        self._webhooks = taquba_webhooks
        self._queue_name = queue_name

    def observes(self, outcome: RunOutcome) -> bool:
        """Whether the run has a ``callback_url``."""
        return CALLBACK_URL in outcome.headers

    async def on_termination(self, outcome: RunOutcome, effects: TerminalEffects) -> None:
        """Stage the delivery."""
        try:
            request = self._webhooks.WebhookRequest(
                outcome.headers[CALLBACK_URL], headers={"Content-Type": "application/json"}
            )
        except InvalidArgument as error:
            raise PermanentFailure(
                f"the end of run {outcome.run_id!r} cannot be delivered: {error}"
            ) from None
        delivery = self._webhooks.webhook_enqueue_request(self._queue_name, request, _body(outcome))
        effects.enqueue(delivery)


def _body(outcome: RunOutcome) -> bytes:
    result = outcome.result
    return json.dumps(
        {
            "run_id": outcome.run_id,
            "state": outcome.state.value,
            "step_number": outcome.step_number,
            "result": None if result is None else b64encode(result).decode(),
            "reason": outcome.reason,
            "ended_at": outcome.ended_at.isoformat(),
        }
    ).encode()
