"""Forks, with a `Service` that was made before, and takes part in each of the two processes.

    python forked_child.py STORE

Both end when their input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys

from taquba import Service

service = Service(sys.argv[1], {}, role="producer")


async def main() -> None:
    async with service:
        await service.stats("q")
        await asyncio.to_thread(sys.stdin.read)


other = os.fork()
asyncio.run(main())
if other:
    os.waitpid(other, 0)
