"""Runs one life of large payloads again and again, killing it one step later each time.

Called with a folder: life N works in its subfolder N and is killed by SIGKILL at its N-th step,
until one lives to its end. A step lies before and after each write to the store, each flush, and
each writing and removal of objects.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from taquba import EnqueueRequest, Queue, QueueConfig, SettlementEffects
from taquba._store.engine import Engine
from taquba._store.objects import ObjectSpace

P = ParamSpec("P")
R = TypeVar("R")

PAYLOAD = b"p" * 1000


class Steps:
    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @functools.wraps(call)
        async def stepping(*args: P.args, **kwargs: P.kwargs) -> R:
            self.step()
            result = await call(*args, **kwargs)
            self.step()
            return result

        return stepping


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


def main(root: Path) -> None:
    for fatal in range(1, 1000):
        folder = root / str(fatal)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            log = (folder / "acknowledged").open("w")
            steps = Steps(fatal)
            for owner, name in (
                (Engine, "write"),
                (Engine, "flush"),
                (ObjectSpace, "put"),
                (ObjectSpace, "delete"),
            ):
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
