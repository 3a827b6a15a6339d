"""Stands for election until it is killed, and says so when it is elected.

    python candidate_child.py STORE TAKEOVER_SECONDS [fork]

With ``fork`` it first leaves behind a child that lives on when it is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from taquba._objects.candidates import stand_for
from taquba._objects.location import StoreLocation


async def main(url: str, takeover_seconds: float, *, forks: bool) -> None:
    election = stand_for(StoreLocation.parse(url), takeover_seconds)
    await election.win()
    if forks and os.fork() == 0:
        # Ends with the test that holds the other end of the pipe.
        os.close(1)
        os.read(0, 1)
        os._exit(0)
    print(f"elected {time.monotonic()}", flush=True)
    await election.lost()
    print(f"lost {time.monotonic()}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), forks="fork" in sys.argv))
