"""Works on a store whose disk takes no more; prints what was acknowledged, and how it ended.

    python full_disk_child.py STORE LIMIT [FREED [PATIENCE]]

FREED is after how many seconds there is room again, or -1; PATIENCE is for how long the store is
tried again.

A limit on the size of files stands for the full disk: a write beyond it fails (EFBIG), and no
other process on the machine is bothered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import sys
import time

from taquba import Queue, StoreError
from taquba._engine import reopening

PATIENCE = 50.0
"""Seconds: more than the bound on one operation."""


async def main(store: str, limit: int, freed: float = -1, patience: float = 30) -> None:
    reopening.PATIENCE = patience  # type: ignore[misc]
    queue = await Queue.open(store)
    for _ in range(5):
        print("enqueued", (await queue.enqueue("q", b"x" * 100)).id, flush=True)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    if freed >= 0:
        make_room = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (hard, hard))
        asyncio.get_running_loop().call_later(freed, make_room)
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                job = await queue.enqueue("q", b"x" * limit)
                print("enqueued", job.id, flush=True)
                if freed >= 0 and time.monotonic() - started > freed:
                    break
    except StoreError as error:
        print("failed", str(error).replace(" ", "_"), flush=True)
    with contextlib.suppress(StoreError):
        async with asyncio.timeout(PATIENCE):
            await queue.close()
    print("closed", round(time.monotonic() - started, 1), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])))
