"""Runs one life of large payloads again and again, killing it one step later each time.

Called with a folder for the lives. A step lies before and after each write to the store, each
flush, and each writing and removal of objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from taquba import EnqueueRequest, Queue, QueueConfig, SettlementEffects
from taquba._engine.engine import Engine
from taquba._objects.space import ObjectSpace
from tests.crash.stepwise import kill_at_every_step

PAYLOAD = b"p" * 1000


async def live(folder: Path, report: Callable[[str], None]) -> None:
    config = QueueConfig(dead_retention=0)
    async with Queue.open(
        folder / "store", payload_offload_threshold=100, default_config=config, fsync=False
    ) as queue:
        report((await queue.enqueue("q", PAYLOAD)).id)
        for job_id, _ in await queue.enqueue_batch([EnqueueRequest("q", PAYLOAD)] * 2):
            report(job_id)
        first, second, third = await queue.claim_batch("q", 3)
        effects = SettlementEffects(enqueues=[EnqueueRequest("next", PAYLOAD)])
        ((effect, _),) = await queue.ack(first, effects)
        report(effect)
        await queue.nack(second, "later")
        # Its retention is over at once: it is removed by a commit that nobody waits for.
        await queue.dead_letter(third, "never")
        await queue.sweep_now()
        await queue.cancel(effect)


if __name__ == "__main__":
    kill_at_every_step(
        Path(sys.argv[1]),
        live,
        [(Engine, ("write", "flush")), (ObjectSpace, ("put", "delete"))],
    )
