"""Has a store open until its input ends; says of each line that it is told what came of it."""

import asyncio
import sys

from taquba import Queue, QueueConfig, StoreFenced


async def main(store: str) -> None:
    config = QueueConfig(keep_done_jobs=30 * 24 * 3600, dead_retention=None)
    async with Queue.open(store, default_config=config) as queue:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                result = await queue.enqueue("told", line.strip().encode())
                print(result.id, flush=True)
            except StoreFenced:
                print("fenced", flush=True)


asyncio.run(main(sys.argv[1]))
