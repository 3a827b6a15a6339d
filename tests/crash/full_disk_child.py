"""Works on a store whose disk takes no more; prints what was acknowledged, and how it ended.

    python full_disk_child.py STORE LIMIT

A limit on the size of files stands for the full disk: a write beyond it fails (EFBIG), and no
other process on the machine is bothered.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time

from taquba import Queue, StoreError

PATIENCE = 50.0
"""Seconds: more than the bound on one operation."""


async def main(store: str, limit: int) -> None:
    queue = await Queue.open(store)
    for _ in range(5):
        print("enqueued", (await queue.enqueue("q", b"x" * 100)).id, flush=True)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                job = await queue.enqueue("q", b"x" * limit)
                print("enqueued", job.id, flush=True)
    except StoreError:
        print("failed", round(time.monotonic() - started, 1), flush=True)
    with contextlib.suppress(StoreError):
        async with asyncio.timeout(PATIENCE):
            await queue.close()
    print("closed", round(time.monotonic() - started, 1), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
