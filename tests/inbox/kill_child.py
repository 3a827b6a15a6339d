"""Runs one life of a producer and an owner again and again, killing it one step later each time.

Called with a folder: life N works in its subfolder N and is killed by SIGKILL at its N-th step,
until one lives to its end. A step lies before and after each write to the store, each flush, and
each writing, reading, moving and removal of objects, so both sides are killed at every point.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from taquba import EnqueueRequest, InboxConfig, Producer, Queue
from taquba._store.engine import Engine
from taquba._store.objects import ObjectSpace
from tests.inbox.support import contents, inbox_at
from tests.payloads.kill_child import Steps

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


def main(root: Path) -> None:
    for fatal in range(1, 1000):
        folder = root / str(fatal)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            log = (folder / "acknowledged").open("w")
            steps = Steps(fatal)
            for owner, names in (
                (Engine, ("write", "flush")),
                (ObjectSpace, ("create", "put", "get", "move", "delete")),
            ):
                for name in names:
                    setattr(owner, name, steps.around(getattr(owner, name)))
            asyncio.run(live(folder, functools.partial(print, file=log, flush=True)))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, f"life {fatal} ended by itself: {status}"
    raise AssertionError("no life came to its end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
