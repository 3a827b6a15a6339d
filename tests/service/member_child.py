"""Holds claims on the jobs of a queue through a service that it does not own, until it is killed.

    python member_child.py STORE COUNT

It prints the id of each job, and ends by itself, with the claims held, when its input ends.
"""

from __future__ import annotations

import asyncio
import sys

from taquba import Claim, Service


async def main(url: str, count: int) -> None:
    async with Service(url, {}, role="producer") as service:
        held: list[Claim] = []
        while len(held) < count:
            held += await service.claim_batch("q", count - len(held), wait=5)
        print(*(claim.id for claim in held), flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
