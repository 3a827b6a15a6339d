from __future__ import annotations

import asyncio

import pytest

from taquba import Producer, Queue
from tests.cli.support import Taquba
from tests.inbox.support import inbox_at

pytestmark = pytest.mark.allow_blocking("a command has its event loop for itself")


async def fill(taquba: Taquba) -> None:
    inbox = await inbox_at(taquba.store)
    async with Queue.open(taquba.store, inbox=True) as queue:
        await inbox.put("broken", b"broken")
        await queue.ingest_now()
    async with Producer.open(taquba.store) as producer:
        await producer.enqueue("mail", b"")


def test_an_inbox_that_was_never_used_is_empty(taquba: Taquba) -> None:
    assert taquba.ok("inbox", "--json").document == {
        "waiting": 0,
        "waiting_bytes": 0,
        "oldest_at": None,
        "rejected": 0,
        "rejected_batches": [],
    }


def test_what_waits_and_what_was_rejected_is_shown(taquba: Taquba) -> None:
    asyncio.run(fill(taquba))
    document = taquba.ok("inbox", "--json").document
    assert (document["waiting"], document["rejected"]) == (1, 1)
    assert document["waiting_bytes"] > 0
    assert document["oldest_at"].endswith("Z")
    (batch,) = document["rejected_batches"]
    assert (batch["name"], batch["size"]) == ("broken", 6)
    assert batch["reason"] == "its name is not that of a producer's batch"
    shown = taquba.ok("inbox").out
    assert "waiting   1" in shown
    assert "broken" in shown
    assert "not that of a producer's batch" in shown
