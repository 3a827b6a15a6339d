"""Runs one life of a producer and an owner again and again, killing it one step later each time.

Called with a folder for the lives. A step lies before and after each write to the store, each
flush, and each writing, reading, moving and removal of objects, so both sides are killed at every
point.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from taquba import EnqueueRequest, InboxConfig, Producer, Queue
from taquba._engine.engine import Engine
from taquba._objects.space import ObjectSpace
from tests.crash.stepwise import kill_at_every_step
from tests.inbox.support import contents, inbox_at

KEYED = b"keyed"
LARGE = b"l" * 1000
ASLEEP = InboxConfig(poll_interval=3600)
"""Nothing happens by itself: a step is always the same step."""


async def live(folder: Path, report: Callable[[str], None]) -> None:
    store = folder / "store"
    queue = await Queue.open(store, inbox=ASLEEP, fsync=False, payload_offload_threshold=100)
    inbox = await inbox_at(store)
    async with Producer.open(store, fsync=False) as producer:
        report((await producer.enqueue("q", b"1")).id)
        await queue.ingest_now()
        report((await producer.enqueue("q", KEYED, idempotency_key="key")).id)
        for receipt in await producer.enqueue_batch(
            [EnqueueRequest("q", LARGE), EnqueueRequest("q", b"2")]
        ):
            report(receipt.id)
        sent = await contents(inbox)
        await inbox.put("broken", b"broken")
        await queue.ingest_now()
        # What a producer sends again that did not hear of its success.
        for name, data in sent.items():
            await inbox.put(name, data)
        report((await producer.enqueue("q", KEYED, idempotency_key="key")).id)
        await queue.ingest_now()
    await queue.close()


if __name__ == "__main__":
    kill_at_every_step(
        Path(sys.argv[1]),
        live,
        [(Engine, ("write", "flush")), (ObjectSpace, ("create", "put", "get", "move", "delete"))],
    )
