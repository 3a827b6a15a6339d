"""Enqueues jobs, prints "done", and is then killed.

python crashing_child.py URL JOBS [SIZE]
"""

from __future__ import annotations

import asyncio
import os
import sys

from taquba import Queue


async def main(url: str, jobs: int, size: int) -> None:
    queue = await Queue.open(url)
    for number in range(jobs):
        await queue.enqueue("q", b"x" * size, job_id=f"job-{os.getpid()}-{number}")
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 1))
