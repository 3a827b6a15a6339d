"""Deliveries that are staged with the end of another job."""

from __future__ import annotations

import pytest

from taquba import FailWith, JobRecord, LeaseHandle, PermanentFailure, Queue, SettlementEffects
from taquba.testing import drain
from taquba_webhooks import WebhookRequest, WebhookWorker, webhook_enqueue_request
from tests.webhooks.support import receiving


@pytest.mark.parametrize("outcome", ["paid", "refused"])
async def test_the_end_of_a_job_and_the_news_of_it_are_one_commit(
    queue: Queue, outcome: str
) -> None:
    async with receiving() as receiver:

        async def charge(job: JobRecord, lease: LeaseHandle) -> SettlementEffects:
            request = WebhookRequest(receiver.url, headers={"X-Outcome": outcome})
            news = SettlementEffects(
                enqueues=[webhook_enqueue_request("hooks", request, job.payload)],
                kv_writes={"outcome": outcome.encode()},
            )
            if outcome == "refused":
                raise FailWith(PermanentFailure("refused"), news)
            return news

        await queue.enqueue("payments", b"42")
        assert await drain(queue, "payments", charge) == 1
        assert await queue.kv_get("outcome") == outcome.encode()
        assert (await queue.stats("hooks")).pending == 1
        async with WebhookWorker(allow_private_addresses=True) as worker:
            assert await drain(queue, "hooks", worker) == 1
    (received,) = receiver.requests
    assert (received.body, received.headers["x-outcome"]) == (b"42", outcome)
