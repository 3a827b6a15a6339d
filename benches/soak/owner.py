"""One owner of the store, until it is told to stop, fenced, or killed.

    python -m benches.soak.owner FOLDER LIFE PLAN

Prints a line once the store is open. Reads lines: ``stop``, or ``clock MS`` to set its clock that
far ahead of the machine's; at the end of its input it stops as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from pathlib import Path

from benches.soak.actors import Workplace, actors_of
from benches.soak.history import Histories, HistoryWriter
from benches.soak.plan import (
    EXIT_FENCED,
    EXIT_STORE_LOST,
    KEEP_DONE_SECONDS,
    MAILS,
    MAX_ATTEMPTS,
    Plan,
)
from taquba import Queue, QueueClosed, QueueConfig, StoreError, StoreFenced, SystemClock

OFFLOAD_BYTES = 2048
CONFIG = QueueConfig(
    max_attempts=MAX_ATTEMPTS, retry_backoff_base=0.1, retry_backoff_max=1, dead_retention=None
)
KEEPS_DONE = QueueConfig(
    max_attempts=MAX_ATTEMPTS,
    retry_backoff_base=0.1,
    retry_backoff_max=1,
    dead_retention=None,
    keep_done_jobs=KEEP_DONE_SECONDS,
)


class JumpingClock(SystemClock):
    """The machine's clock, whose wall time can be set; monotonic time goes on."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    def time_ms(self) -> int:
        return super().time_ms() + self.ahead_ms


async def obey(place: Workplace, clock: JumpingClock) -> None:
    """Do what comes on standard input."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while not place.stopping.is_set():
        word, *rest = (await reader.readline()).decode().split() or ["stop"]
        if word == "clock":
            clock.ahead_ms = int(rest[0])
            place.history.write(event="clock", clock_ms=clock.ahead_ms)
        else:
            place.stopping.set()


async def own(plan: Plan, life: int, history: HistoryWriter) -> int:
    clock = JumpingClock(plan.clock_ms)
    try:
        queue = await Queue.open(
            plan.url,
            default_config=CONFIG,
            queue_configs={MAILS: KEEPS_DONE},
            clock=clock,
            reaper_interval=1,
            payload_offload_threshold=OFFLOAD_BYTES,
            take_over=True,
        )
    except (StoreError, StoreFenced) as error:
        history.write(event="not opened", why=str(error))
        return EXIT_STORE_LOST
    history.write(event="opened", clock_ms=plan.clock_ms)
    print("open", flush=True)
    place = Workplace(plan, life, queue, history)
    obeying = asyncio.create_task(obey(place, clock))
    try:
        async with asyncio.TaskGroup() as group:
            for actor in actors_of(place):
                group.create_task(actor)
    except* (StoreFenced, StoreError, QueueClosed) as errors:
        why = errors.exceptions[0]
        history.write(event="lost", why=f"{type(why).__name__}: {why}")
    finally:
        obeying.cancel()
    lost = not place.stopping.is_set()
    fenced = False
    try:
        await queue.stats(MAILS)
    except StoreFenced:
        fenced = True
    except StoreError:
        pass
    with contextlib.suppress(StoreError, StoreFenced):
        await queue.close()
    history.write(event="closed")
    return EXIT_FENCED if fenced else EXIT_STORE_LOST if lost else 0


def main(folder: str, life: str, plan: str) -> int:
    logging.basicConfig(level=logging.ERROR)
    history = HistoryWriter(Histories.path(Path(folder), int(life)))
    return asyncio.run(own(Plan.load(plan), int(life), history))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
